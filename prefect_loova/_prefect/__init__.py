"""Everything about the Prefect run: context, events, artifacts, pages, progress, lineage, concurrency.

It may use `credentials`, `batches`, `jobs` and all below them.
"""
