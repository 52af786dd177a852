"""What is said of an answer in words: text, HTML and JSON say the same sentences."""
