"""Where figures that are not measured come from: grams a kWh, dollars an hour, PUE, water. One file a source.

``grid_average`` and ``user_given`` give ``carbon_intensity``; ``prices`` and ``user_given`` give ``price``;
``pue_water`` and ``user_given`` give ``pue``; ``places`` and ``skus`` know the names. A service is asked over a network
where the user names it, and nowhere else. The names are listed here, and each is a file here.
"""

INTENSITY_PROVIDERS = ("electricity_maps", "uk_grid", "watttime")
# By cloud: the file that asks for its price list, and what the list is called.
PRICE_PROVIDERS = {"azure": ("azure_retail", "Azure Retail Prices API")}
