"""In-memory twins of every port: fakes for tests, and real where one process is enough."""
