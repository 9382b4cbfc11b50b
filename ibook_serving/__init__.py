"""The scoring server: `python -m ibook_serving`.

A request's way through the modules: `endpoints` reads the body, `decode` makes rows of it (types in
`api`), `service` scores them in `batching`'s batches with the model and history that `following`
swaps in, `reasons` explains. `server` and `supervisor` are the processes around it, `published`
and `history` the way to the promotion log and the online store. `status` says what all processes
do, `page` shows it to people. `app` puts all together.
"""
