"""How the Loova API answers: functions from an HTTP answer to a value or an error, and whom TLS trusts.

It may use `models`, `errors` and the modules with an underscore beside it. `client` is what uses it.
"""
