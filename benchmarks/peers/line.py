"""What is written: lines of one length, so that a file's size tells how many there are."""

LINE = "message to {:07d}@example.com\n"
LENGTH = len(LINE.format(0))
