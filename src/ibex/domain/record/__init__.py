"""The record of requests: exchanges, their journal, and their delivery to sessions and traces."""
