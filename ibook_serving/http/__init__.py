"""HTTP without business: routes, their document, bodies in, problems out, each request observed."""
