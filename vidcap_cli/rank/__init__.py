"""What runs inside a rank: claiming, decoding, captioning, committing."""
