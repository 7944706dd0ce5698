"""What requests leave behind: exchanges, their journal, and their delivery to sessions and traces."""
