"""A look at an item index: what its tree is like, measured (`measure`) and as a page (`page`)."""

from eager_llm.index.inspect.data import InspectData
from eager_llm.index.inspect.measure import inspect_index
from eager_llm.index.inspect.page import render_inspect

__all__ = ["InspectData", "inspect_index", "render_inspect"]
