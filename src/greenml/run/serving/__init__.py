"""Serving: the energy of an endpoint's requests, and of servers that have a metrics page of their own."""
