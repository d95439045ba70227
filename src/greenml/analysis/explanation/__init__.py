"""How a printed figure came about, step by step."""
