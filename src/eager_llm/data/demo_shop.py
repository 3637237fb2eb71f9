"""The demo shop: a made-up hardware and hobby store, so that nothing needs to be downloaded.

Every title, user and event here is invented. Users have a taste (one or two departments, a price
class, a brand they like) and work on projects: a project is a chain of items that people tend to
buy one after the other, so the next item can be learned from the last ones and from their text.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from eager_llm.data.tables import EVENT_COLUMNS, INTENTION_COLUMNS, ITEM_COLUMNS, Tables

DEPARTMENTS: dict[str, list[str]] = {
    "Woodworking": [
        "Hand Saw",
        "Bench Plane",
        "Chisel Set",
        "Wood Glue",
        "Bar Clamp",
        "Sanding Block",
        "Wood Oil",
    ],
    "Gardening": [
        "Seed Tray",
        "Potting Soil",
        "Hand Trowel",
        "Watering Can",
        "Pruning Shears",
        "Plant Food",
        "Trellis",
    ],
    "Cycling": [
        "Inner Tube",
        "Tyre Lever",
        "Floor Pump",
        "Chain Oil",
        "Multi Tool",
        "Handlebar Tape",
        "Bell",
    ],
    "Baking": [
        "Mixing Bowl",
        "Kitchen Scale",
        "Bread Tin",
        "Proofing Basket",
        "Dough Scraper",
        "Oven Glove",
        "Cooling Rack",
    ],
    "Painting": [
        "Sketch Pad",
        "Brush Set",
        "Watercolour Box",
        "Masking Tape",
        "Palette",
        "Easel",
        "Varnish",
    ],
    "Camping": [
        "Two Person Tent",
        "Ground Mat",
        "Sleeping Bag",
        "Gas Stove",
        "Cooking Pot",
        "Head Lamp",
        "Dry Bag",
    ],
}
PRODUCTS = 7
SERIES = ["Classic", "Compact", "Pro", "Everyday", "Heritage", "Light", "Max"]
NEW_SERIES = ["Studio", "Trail", "Nordic"]
BRANDS = ["Alder & Finch", "Brambleworks", "Coppergate", "Dunmore", "Elmstead", "Fernhill"]
WISHES = [
    "something to start {}",
    "the next thing I need for {}",
    "a gift for someone who loves {}",
    "better {} gear",
]
# How many customers a department has: a few departments draw most of them.
DEPARTMENT_SHARES = [0.3, 0.2, 0.15, 0.15, 0.1, 0.1]


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
    chains = _product_chains(items)
    purchases: list[_Purchase] = []
    for number in range(users):
        purchases += _purchases(f"customer-{number:04d}", rng, items, chains)
    table = pd.DataFrame(purchases)
    metadata = {
        "source": "demo shop (made up)",
        "form": "built in",
        "ordinal_time": False,
        "made_up": True,
    }
    events = table[list(EVENT_COLUMNS)]
    intentions = table[list(INTENTION_COLUMNS)]
    return Tables(events, items, intentions, metadata)


def demo_increments(
    folder: Path, seed: int = 0, increments: int = 2, users: int = 1200
) -> list[Path]:
    """Write the demo shop's log as it arrives: most of it at first, then an increment at a time.

    With each increment two departments bring out a new series, one item a product, which a third of
    their customers choose from then on. An increment holds a tenth of the log: some weeks of the
    made-up shop.

    Args:
        folder: where a folder is made for each of them.
        seed: seed of the shop and of who chooses the new series.
        increments: how many follow the first log.
        users: customers of the shop.

    Returns:
        The folders, `0` the log before the first increment; each holds `events.csv`, `items.csv` and
        `intentions.csv`, as `eager-llm import` reads them.
    """
    shop = demo_shop(seed, users)
    rng = np.random.default_rng((seed, 2))
    events = shop.events.copy()
    for name in ("intention", "preference"):
        events[name] = shop.intentions[name]  # type: ignore[index]
    arrivals = _arrivals(events["timestamp"], increments)
    departments = events["item_id"].map(shop.items.set_index("item_id")["categories"])
    folders = []
    for increment in range(increments + 1):
        items = shop.items
        if increment:
            name = NEW_SERIES[(increment - 1) % len(NEW_SERIES)]
            items = _new_series(shop.items, name, increment)
            takes_new = (arrivals >= increment) & (rng.random(len(events)) < 1 / 3)
            successors = departments.map(items.set_index("categories")["item_id"])
            replaced = takes_new & successors.notna()
            events["item_id"] = np.where(replaced, successors, events["item_id"])
        target = folder / str(increment)
        _write_csv(target, events[arrivals == increment], items)
        folders.append(target)
    return folders


@dataclass(frozen=True)
class _Purchase:
    """An event with what the customer looked for; the fields are columns of the tables."""

    user_id: str
    item_id: str
    timestamp: pd.Timestamp
    intention: str
    preference: str


def _items(rng: np.random.Generator) -> pd.DataFrame:
    """Make up the catalogue: every product in every series, of a brand drawn at random."""
    rows = []
    for department, products in DEPARTMENTS.items():
        for product in products:
            for series in SERIES:
                brand = BRANDS[rng.integers(len(BRANDS))]
                description = _description(series, product, brand, department)
                categories = f"Demo Shop,{department},{product}"
                rows.append((f"{brand} {series} {product}", description, brand, categories))
    # Numbers are drawn, so that they say nothing about the department.
    numbers = rng.permutation(len(rows))
    items = pd.DataFrame(rows, columns=list(ITEM_COLUMNS[1:]))
    items.insert(0, "item_id", [f"demo-{number:03d}" for number in numbers])
    return items


def _description(series: str, product: str, brand: str, department: str) -> str:
    """Return the made-up description of an item."""
    subject = f"{series.lower()} {product.lower()}"
    return f"A made-up {subject} by {brand}, for {department.lower()} at home."


def _product_chains(items: pd.DataFrame) -> dict[str, list[np.ndarray]]:
    """Return for each department its product lines, each as its items' rows, a row a series."""
    lines = items.groupby(["categories"], sort=False).indices
    chains = {}
    for department, products in DEPARTMENTS.items():
        chains[department] = [lines[f"Demo Shop,{department},{product}"] for product in products]
    return chains


def _purchases(
    user: str, rng: np.random.Generator, items: pd.DataFrame, chains: dict[str, list[np.ndarray]]
) -> list[_Purchase]:
    """Walk one customer through projects: along a chain, mostly in one series, sometimes astray.

    Args:
        user: the customer's id.
        rng: source of what is drawn at random.
        items: the catalogue.
        chains: see `_product_chains`.
    """
    departments = rng.choice(list(DEPARTMENTS), size=2, replace=False, p=DEPARTMENT_SHARES)
    favourite = int(rng.integers(len(SERIES)))
    days = int(rng.integers(500))
    moment = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(days=days)
    department = departments[0]
    step = int(rng.integers(PRODUCTS))
    purchases = []
    for _ in range(5 + int(rng.poisson(3))):
        series = favourite
        if rng.random() >= 0.75:
            series = int(rng.integers(len(SERIES)))
        row = chains[department][step % PRODUCTS][series]
        moment += pd.Timedelta(hours=int(rng.integers(2, 400)))
        wish = WISHES[rng.integers(len(WISHES))]
        purchase = _Purchase(
            user_id=user,
            item_id=items["item_id"].iat[row],
            timestamp=moment,
            intention=wish.format(department.lower()),
            preference=f"likes {SERIES[favourite].lower()} things for {department.lower()}",
        )
        purchases.append(purchase)
        step += 1
        if rng.random() < 0.2:
            department = departments[int(rng.integers(2))]
            step = int(rng.integers(PRODUCTS))
    return purchases


def _arrivals(timestamps: pd.Series, increments: int) -> np.ndarray:
    """Return for each event the increment that it arrives in, int [events]; 0 is the first log."""
    cuts = []
    for increment in range(increments):
        share = 1 - 0.1 * (increments - increment)
        cuts.append(timestamps.quantile(share))
    return np.searchsorted(np.array(cuts), timestamps.to_numpy(), side="left")


def _new_series(items: pd.DataFrame, name: str, increment: int) -> pd.DataFrame:
    """Return one item of a new series for each product of the departments whose turn it is."""
    turn = 2 * increment - 2
    names = list(DEPARTMENTS)
    departments = [names[(turn + offset) % len(names)] for offset in range(2)]
    in_turn = items["categories"].str.split(",").str[1].isin(departments)
    rows = items[in_turn].drop_duplicates("categories")
    brand = BRANDS[increment % len(BRANDS)]
    ids, titles, descriptions = [], [], []
    for number, categories in enumerate(rows["categories"]):
        _, department, product = categories.split(",")
        ids.append(f"demo-{name.lower()}-{number:02d}")
        titles.append(f"{brand} {name} {product}")
        descriptions.append(_description(name, product, brand, department))
    return rows.assign(item_id=ids, title=titles, description=descriptions, brand=brand)


def _write_csv(folder: Path, events: pd.DataFrame, items: pd.DataFrame) -> None:
    """Write one increment as `eager-llm import` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    events[list(EVENT_COLUMNS)].to_csv(folder / "events.csv", index=False)
    items.to_csv(folder / "items.csv", index=False)
    events[list(INTENTION_COLUMNS)].to_csv(folder / "intentions.csv", index=False)
