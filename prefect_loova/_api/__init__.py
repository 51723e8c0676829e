"""Parse responses of the Loova API into values or errors, and create the TLS context.

These modules do no I/O. They import `models`, `errors` and the private modules beside this folder; `client` uses them.
"""
