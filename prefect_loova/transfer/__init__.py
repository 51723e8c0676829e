"""From a URL into a checked S3 object: download, check, upload, each resumed where it broke.

It may use `store` and `client`. It knows no job record.
"""
