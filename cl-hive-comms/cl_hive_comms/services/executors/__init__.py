"""One object per management action: what it reads, what it changes, and how to find out after a crash."""
