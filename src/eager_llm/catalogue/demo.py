"""The demo shop: a made-up hardware and hobby store, so that nothing needs to be downloaded.

Every title, user and event here is invented. Users have a taste (one or two departments, a price
class, a brand they like) and work on projects: a project is a chain of items that people tend to
buy one after the other, so the next item can be learned from the last ones and from their text.
"""

import numpy as np
import pandas as pd

from eager_llm.catalogue.tables import ITEM_COLUMNS, Tables

DEPARTMENTS: dict[str, list[str]] = {
    "Woodworking": ["Hand Saw", "Bench Plane", "Chisel Set", "Wood Glue", "Bar Clamp", "Sanding Block", "Wood Oil"],
    "Gardening": ["Seed Tray", "Potting Soil", "Hand Trowel", "Watering Can", "Pruning Shears", "Plant Food", "Trellis"],
    "Cycling": ["Inner Tube", "Tyre Lever", "Floor Pump", "Chain Oil", "Multi Tool", "Handlebar Tape", "Bell"],
    "Baking": ["Mixing Bowl", "Kitchen Scale", "Bread Tin", "Proofing Basket", "Dough Scraper", "Oven Glove", "Cooling Rack"],
    "Painting": ["Sketch Pad", "Brush Set", "Watercolour Box", "Masking Tape", "Palette", "Easel", "Varnish"],
    "Camping": ["Two Person Tent", "Ground Mat", "Sleeping Bag", "Gas Stove", "Cooking Pot", "Head Lamp", "Dry Bag"],
}  # fmt: skip
SERIES = ["Classic", "Compact", "Pro", "Everyday", "Heritage", "Light", "Max"]
BRANDS = ["Alder & Finch", "Brambleworks", "Coppergate", "Dunmore", "Elmstead", "Fernhill"]
WISHES = ["something to start {}", "the next thing I need for {}", "a gift for someone who loves {}", "better {} gear"]


def demo_shop(seed: int = 0, users: int = 1200) -> Tables:
    """Make the shop up: 294 items in 42 product lines, and `users` customers' events.

    Returns:
        Tables whose `facts` say `made_up`, with an intentions table for the training tasks.
    """
    rng = np.random.default_rng(seed)
    items = _items(rng)
    # Columns to filter by; drawn apart, so that they change nothing else.
    offers = np.random.default_rng((seed, 1))
    items["price"] = np.round(offers.gamma(3.0, 10.0, len(items)) + 3, 2)
    items["stock"] = offers.integers(0, 40, len(items))
    lines = items.groupby(["categories"], sort=False).indices
    chains = {
        department: [lines[f"Demo Shop,{department},{product}"] for product in products]
        for department, products in DEPARTMENTS.items()
    }
    events, intentions = [], []
    for number in range(users):
        for row, wish in _customer(f"customer-{number:04d}", rng, items, chains):
            events.append(row)
            intentions.append(wish)
    facts = {"source": "demo shop (made up)", "form": "built in", "ordinal_time": False, "made_up": True}
    columns = ["user_id", "item_id", "intention", "preference"]
    return Tables(
        pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]),
        items,
        pd.DataFrame(intentions, columns=columns),
        facts,
    )


def _items(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for department, products in DEPARTMENTS.items():
        for product in products:
            for series in SERIES:
                brand = BRANDS[rng.integers(len(BRANDS))]
                description = (
                    f"A made-up {series.lower()} {product.lower()} by {brand}, for {department.lower()} at home."
                )
                rows.append((f"{brand} {series} {product}", description, brand, f"Demo Shop,{department},{product}"))
    # Numbers are drawn, so that they say nothing about the department.
    numbers = rng.permutation(len(rows))
    return pd.DataFrame(
        [(f"demo-{number:03d}", *row) for number, row in zip(numbers, rows, strict=True)], columns=list(ITEM_COLUMNS)
    )


def _customer(
    user: str, rng: np.random.Generator, items: pd.DataFrame, chains: dict[str, list[np.ndarray]]
) -> list[tuple[tuple[str, str, pd.Timestamp], tuple[str, str, str, str]]]:
    """Walk one customer through projects: along a chain, mostly in one series, now and then astray."""
    departments = rng.choice(list(DEPARTMENTS), size=2, replace=False, p=[0.3, 0.2, 0.15, 0.15, 0.1, 0.1])
    favourite = int(rng.integers(len(SERIES)))
    moment = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(days=int(rng.integers(500)))
    rows = []
    department, step = departments[0], int(rng.integers(7))
    for _ in range(5 + int(rng.poisson(3))):
        series = favourite if rng.random() < 0.75 else int(rng.integers(len(SERIES)))
        item = items["item_id"].iat[chains[department][step % 7][series]]
        moment += pd.Timedelta(hours=int(rng.integers(2, 400)))
        wish = WISHES[rng.integers(len(WISHES))].format(department.lower())
        liking = f"likes {SERIES[favourite].lower()} things for {department.lower()}"
        rows.append(((user, item, moment), (user, item, wish, liking)))
        step += 1
        if rng.random() < 0.2:
            department, step = departments[int(rng.integers(2))], int(rng.integers(7))
    return rows
