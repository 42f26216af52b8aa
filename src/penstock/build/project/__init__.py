"""What a project is and needs, read off its files: start at `detect.detect`."""
