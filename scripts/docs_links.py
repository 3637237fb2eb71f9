"""A hook for MkDocs: links from a page to the project's other files.

On the project's own pages such a link opens the file. The site holds no file outside docs/, so there
the link becomes the file's path. A link to a file that is not there fails the build.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace each link that leaves docs/ by the path of its file.

    Raises:
        PluginError: the file is not there.
    """
    folder = (DOCS / page.file.src_path).parent

    def path_of(link: re.Match[str]) -> str:
        text, target = link.groups()
        file = (folder / target).resolve()
        if file.is_relative_to(DOCS):
            return link.group()
        if not file.exists():
            raise PluginError(f"{page.file.src_path}: links to {target}, which is not there")
        path = file.relative_to(ROOT)
        return f"`{path}`" if text.strip("`") == str(path) else f"{text} (`{path}`)"

    return LINK.sub(path_of, markdown)
