"""Where figures that are not measured come from: grams a kWh, dollars an hour, PUE. One file a source.

``grid_average`` and ``fixed`` give ``carbon_intensity``; ``cloud_prices`` and ``fixed`` give ``price``;
``facility`` and ``fixed`` give ``pue``; ``places`` and ``skus`` know the names.
"""
