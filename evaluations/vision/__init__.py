"""Videos watched under a memory, and questions about them: what is asked, how it is read, what is shown of it."""
