"""What is kept: rows that are appended and survive a crash, what they were made with, and where they lie."""
