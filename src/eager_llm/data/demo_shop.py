"""The demo shop: a made-up hardware and hobby store, so that nothing needs to be downloaded.

Every title, user and event here is invented. Users have a taste (one or two departments, a price
class, a brand they like) and work on projects: a project is a chain of items that people tend to
buy one after the other, so the next item can be learned from the last ones and from their text.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from eager_llm.data.tables import ITEM_COLUMNS, Tables

DEPARTMENTS: dict[str, list[str]] = {
    "Woodworking": ["Hand Saw", "Bench Plane", "Chisel Set", "Wood Glue", "Bar Clamp", "Sanding Block", "Wood Oil"],
    "Gardening": ["Seed Tray", "Potting Soil", "Hand Trowel", "Watering Can", "Pruning Shears", "Plant Food", "Trellis"],
    "Cycling": ["Inner Tube", "Tyre Lever", "Floor Pump", "Chain Oil", "Multi Tool", "Handlebar Tape", "Bell"],
    "Baking": ["Mixing Bowl", "Kitchen Scale", "Bread Tin", "Proofing Basket", "Dough Scraper", "Oven Glove", "Cooling Rack"],
    "Painting": ["Sketch Pad", "Brush Set", "Watercolour Box", "Masking Tape", "Palette", "Easel", "Varnish"],
    "Camping": ["Two Person Tent", "Ground Mat", "Sleeping Bag", "Gas Stove", "Cooking Pot", "Head Lamp", "Dry Bag"],
}  # fmt: skip
SERIES = ["Classic", "Compact", "Pro", "Everyday", "Heritage", "Light", "Max"]
NEW_SERIES = ["Studio", "Trail", "Nordic"]
BRANDS = ["Alder & Finch", "Brambleworks", "Coppergate", "Dunmore", "Elmstead", "Fernhill"]
WISHES = [
    "something to start {}",
    "the next thing I need for {}",
    "a gift for someone who loves {}",
    "better {} gear",
]


def demo_shop(seed: int = 0, users: int = 1200) -> Tables:
    """Make the shop up: 294 items in 42 product lines, and `users` customers' events.

    Returns:
        Tables whose `metadata` say `made_up`, with an intentions table for the training tasks.
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
    metadata = {
        "source": "demo shop (made up)",
        "form": "built in",
        "ordinal_time": False,
        "made_up": True,
    }
    columns = ["user_id", "item_id", "intention", "preference"]
    return Tables(
        pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]),
        items,
        pd.DataFrame(intentions, columns=columns),
        metadata,
    )


def demo_increments(folder: Path, seed: int = 0, nights: int = 2, users: int = 1200) -> list[Path]:
    """Write the demo shop's log as it arrives: all but the last part, then a night at a time, each in a folder.

    With each night two departments bring out a new series, one item a product, which a third of their customers
    choose from then on. A night here holds a tenth of the log: some weeks of the made-up shop.

    Returns:
        The folders, `0` the log before the first night; each holds `events.csv`, `items.csv` and
        `intentions.csv`, as `eager-llm import` reads them.
    """
    shop, rng = demo_shop(seed, users), np.random.default_rng((seed, 2))
    events = shop.events.assign(
        **{name: shop.intentions[name] for name in ("intention", "preference")}  # type: ignore[index]
    )
    cuts = [events["timestamp"].quantile(1 - 0.1 * (nights - night)) for night in range(nights)]
    arrives = np.searchsorted(np.array(cuts), events["timestamp"].to_numpy(), side="left")
    department = events["item_id"].map(shop.items.set_index("item_id")["categories"])
    folders, known = [], shop.items
    for night in range(nights + 1):
        fresh = shop.items.iloc[:0]
        if night:
            fresh = _new_series(shop.items, NEW_SERIES[(night - 1) % len(NEW_SERIES)], night)
            chosen = (arrives >= night) & (rng.random(len(events)) < 1 / 3)
            renewed = department.map(fresh.set_index("categories")["item_id"])
            events["item_id"] = np.where(chosen & renewed.notna(), renewed, events["item_id"])
        mine = events[arrives == night]
        target = folder / str(night)
        target.mkdir(parents=True, exist_ok=True)
        mine[["user_id", "item_id", "timestamp"]].to_csv(target / "events.csv", index=False)
        (fresh if night else known).to_csv(target / "items.csv", index=False)
        mine[["user_id", "item_id", "intention", "preference"]].to_csv(
            target / "intentions.csv", index=False
        )
        folders.append(target)
    return folders


def _new_series(items: pd.DataFrame, name: str, night: int) -> pd.DataFrame:
    """Return one item of a new series for each product of the departments whose turn it is."""
    departments = [list(DEPARTMENTS)[(2 * night - 2 + n) % len(DEPARTMENTS)] for n in range(2)]
    rows = items[items["categories"].str.split(",").str[1].isin(departments)].drop_duplicates(
        "categories"
    )
    brand = BRANDS[night % len(BRANDS)]
    product = rows["categories"].str.split(",").str[2]
    subject = rows["categories"].str.split(",").str[1].str.lower()
    return rows.assign(
        item_id=[f"demo-{name.lower()}-{number:02d}" for number in range(len(rows))],
        title=brand + f" {name} " + product,
        description=f"A made-up {name.lower()} "
        + product.str.lower()
        + f" by {brand}, for "
        + subject
        + " at home.",
        brand=brand,
    )


def _items(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for department, products in DEPARTMENTS.items():
        for product in products:
            for series in SERIES:
                brand = BRANDS[rng.integers(len(BRANDS))]
                description = f"A made-up {series.lower()} {product.lower()} by {brand}, for {department.lower()} at home."
                rows.append(
                    (
                        f"{brand} {series} {product}",
                        description,
                        brand,
                        f"Demo Shop,{department},{product}",
                    )
                )
    # Numbers are drawn, so that they say nothing about the department.
    numbers = rng.permutation(len(rows))
    return pd.DataFrame(
        [(f"demo-{number:03d}", *row) for number, row in zip(numbers, rows, strict=True)],
        columns=list(ITEM_COLUMNS),
    )


def _customer(
    user: str, rng: np.random.Generator, items: pd.DataFrame, chains: dict[str, list[np.ndarray]]
) -> list[tuple[tuple[str, str, pd.Timestamp], tuple[str, str, str, str]]]:
    """Walk one customer through projects: along a chain, mostly in one series, now and then astray."""
    departments = rng.choice(
        list(DEPARTMENTS), size=2, replace=False, p=[0.3, 0.2, 0.15, 0.15, 0.1, 0.1]
    )
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
