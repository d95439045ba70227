"""Energy, money, carbon and water of a record: totals from measured figures and factors."""
