"""A contract for `lint-imports`: which packages a module may import at its top.

Import Linter's own contracts do not tell an import at a module's top from one inside a function. An
engine inside a function is fine: the module still loads where that engine is not installed.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

ROOT = Path(__file__).resolve().parents[1]


class TopLevelImportsContract(Contract):
    """Forbid packages at the top of all modules below some package.

    Options:
        source: package whose modules are checked, and everything below it.
        forbidden: packages that none of them may import at its top; or
        allowed: the only packages, beside the standard library, that they may.
        named: check only modules of this last name, such as `component`.
    """

    type_name = "top_level_imports"

    source = fields.StringField()
    forbidden = fields.ListField(subfield=fields.StringField(), required=False)
    allowed = fields.ListField(subfield=fields.StringField(), required=False)
    named = fields.StringField(required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Look at every module of the graph, so that a new file is checked, too."""
        source = str(self.source)
        modules = {source, *graph.find_descendants(source)}
        broken = []
        for module in sorted(modules):
            if self.named and not module.endswith(f".{self.named}"):
                continue
            for line, name in top_level_imports(file_of(module)):
                package = name.split(".")[0]
                is_forbidden = package in (self.forbidden or [])
                is_known = package in sys.stdlib_module_names or package in (self.allowed or [])
                if is_forbidden or (self.allowed and not is_known):
                    broken.append(f"{module}, line {line}: {name}")
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: Any) -> None:
        """Print each import that is not allowed."""
        for line in check.metadata["broken"]:
            output.print_error(line)
        output.print_error("Import it inside the function that needs it.")


def file_of(module: str) -> Path:
    """Return the file of a module of this project."""
    base = ROOT / "src" if module.startswith("eager_llm") else ROOT
    path = base.joinpath(*module.split("."))
    package = path / "__init__.py"
    return package if package.is_file() else path.with_suffix(".py")


def top_level_imports(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each import that runs when the module is imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            # Only a type checker reads these.
            pending.extend(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            pending.extend(ast.iter_child_nodes(node))
