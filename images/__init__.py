"""Images as people have them: found, labelled, decoded, and found again."""
