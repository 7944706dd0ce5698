"""Where it is all put together: settings, wiring, processes, the command line."""
