"""
What code does, as text from which a revision is computed. Pure.

The text depends neither on the version of Python nor on comments and layout, as long
as the source can be read; else the compiled code has to do.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TypeGuard

# How source is written, not what it does.
_LAYOUT = {"ctx", "kind", "type_comment", "type_ignores"}
_DEPTH = 20  # of values that a function closes over
_PLAIN = (str, bytes, int, float, complex, bool, type(None))

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


def canonical(node: object) -> str:
    """
    Return a syntax tree as text that each version of Python gives the same.

    ``ast.unparse()`` does not: 3.12 writes other quotes into f-strings. Fields that are
    empty are left out, as a new version may add some.
    """
    if isinstance(node, ast.JoinedStr):  # 3.12 adds empty texts
        node.values = [one for one in node.values if getattr(one, "value", one) != ""]
    if isinstance(node, ast.AST):
        fields = ",".join(
            f"{name}={canonical(value)}"
            for name, value in sorted(ast.iter_fields(node))
            if name not in _LAYOUT and value is not None and value != []
        )
        return f"{type(node).__name__}({fields})"
    if isinstance(node, list):
        return f"[{','.join(map(canonical, node))}]"
    return ascii(node)  # as repr() depends on the version of Unicode


def is_of_project(cls: type, Root: type) -> bool:
    """Whether a base of a class ``Root`` is not of Python or another package."""
    package = cls.__module__.partition(".")[0]
    if package == Root.__module__.partition(".")[0]:
        return True  # wherever it is installed
    if package in (*sys.stdlib_module_names, __name__.partition(".")[0]):
        return False
    path = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & {*Path(path).parts}


def source_of_module(cls: type) -> str:
    """Return the source of the whole module that defines a class."""
    try:
        return canonical(ast.parse(inspect.getsource(sys.modules[cls.__module__])))
    except (OSError, TypeError, KeyError, SyntaxError):
        # Typed into a shell, or frozen: take the compiled code instead.
        return "".join(map(_shape_of, _functions(cls)))


def source_of(code: Any, without: Collection[Any] = ()) -> str:
    """
    Return the source of a function or class, with all that it uses of its module.

    These are functions, classes and tables, and what they use in turn. Of imports only
    the names count, of docstrings nothing.

    Args:
        code: a function, or what can be called as one; or a class.
        without: decorators that do not count.
    """
    return _source_of(code, without, 0)


def _source_of(code: Any, without: Collection[Any], depth: int) -> str:
    if isinstance(code, type):
        bases = [cls for cls in code.__mro__ if is_of_project(cls, code)]
        return "\0".join(_source_of_class(cls, without) for cls in bases)
    if isinstance(code, functools.partial):
        parts = [code.func, code.args, code.keywords]
        return f"partial{[_value(part, depth) for part in parts]}"
    function = inspect.unwrap(getattr(code, "__func__", code))
    if not isinstance(function, FunctionType):
        return _value(code, depth)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    closed_over = [f"{name}={_cell(cell, depth)}" for name, cell in sorted(cells)]
    return "\0".join([_source_of_function(function, without), *closed_over])


def _source_of_function(function: FunctionType, without: Collection[Any]) -> str:
    module = _module_of(function)
    line = function.__code__.co_firstlineno
    found = module.functions.get(line, []) if module else []
    named = [node for node in found if _name(node) == function.__name__]
    if module is None or not named:
        return _shape_of(function)
    return module.text(named, _left_out(named, function.__module__, without))


def _source_of_class(cls: type, without: Collection[Any]) -> str:
    module = _module_of(cls)
    found = module.classes.get(cls.__name__) if module else None
    if module is None or found is None:
        fields = sorted(getattr(cls, "__annotations__", ()))
        return f"{cls.__qualname__}{fields}{''.join(map(_shape_of, _functions(cls)))}"
    return module.text(found, _left_out(found, cls.__module__, without))


def _name(node: Function | ast.Lambda) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else node.name


def _left_out(
    nodes: Iterable[ast.AST], module: str, without: Collection[Any]
) -> list[ast.AST]:
    """Return the decorators of some definitions that do not count."""
    names = vars(sys.modules[module])
    return [
        decorator
        for node in nodes
        for decorator in getattr(node, "decorator_list", ())
        if any(_resolved(decorator, names) is one for one in without)
    ]


def _resolved(decorator: ast.AST, names: Mapping[str, Any]) -> Any:
    if isinstance(decorator, ast.Call):
        return _resolved(decorator.func, names)
    if isinstance(decorator, ast.Attribute):
        return getattr(_resolved(decorator.value, names), decorator.attr, None)
    return names.get(decorator.id) if isinstance(decorator, ast.Name) else None


# --- the source of a module -------------------------------------------------


def _module_of(code: Any) -> ModuleSource | None:
    try:
        return _parsed(inspect.getsource(sys.modules[code.__module__]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return None


@functools.lru_cache(maxsize=100)
def _parsed(source: str) -> ModuleSource:
    return ModuleSource(source)


class ModuleSource:
    """The source of a module, by the names that its statements bind."""

    def __init__(self, source: str) -> None:
        tree = ast.parse(source)
        #: Functions by the line at which they begin, with their decorators.
        self.functions: dict[int, list[Function | ast.Lambda]] = {}
        self.classes: dict[str, list[ast.ClassDef]] = {}
        self._bound: dict[str, list[ast.AST]] = {}
        for node in ast.walk(tree):
            if isinstance(node, Definition):
                _drop_docstring(node)
            if isinstance(node, ast.ClassDef):
                self.classes.setdefault(node.name, []).append(node)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                decorators = getattr(node, "decorator_list", ())
                line = min(one.lineno for one in (node, *decorators))
                self.functions.setdefault(line, []).append(node)
        for statement in tree.body:
            for name, node in _bindings(statement):
                self._bound.setdefault(name, []).append(node)

    def text(self, nodes: Iterable[ast.AST], left_out: Collection[ast.AST]) -> str:
        """Return some definitions, and the statements that bind what they use."""
        parts: dict[int, str] = {}
        work, names = list(nodes), set[str]()
        while work:
            node = work.pop()
            if id(node) in parts:
                continue
            parts[id(node)] = _text_without(node, left_out)
            for name in _used(node, left_out) - names:
                names.add(name)
                work += self._bound.get(name, ())
        first = [parts.pop(id(node)) for node in nodes]
        return "\0".join([*first, *sorted(parts.values())])


def _drop_docstring(node: Definition) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]


def _text_without(node: ast.AST, left_out: Collection[ast.AST]) -> str:
    if left_out and isinstance(node, Definition):
        kept = [one for one in node.decorator_list if one not in left_out]
        all_of_them, node.decorator_list = node.decorator_list, kept
        try:
            return canonical(node)
        finally:
            node.decorator_list = all_of_them
    return canonical(node)


def _used(node: ast.AST, left_out: Collection[ast.AST]) -> set[str]:
    """Return the names that some code reads."""
    names: set[str] = set()
    work = [node]
    while work:
        one = work.pop()
        if one in left_out:
            continue
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load):
            names.add(one.id)
        work += ast.iter_child_nodes(one)
    return names


def _bindings(statement: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names that a statement of a module binds or changes, each with it."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        for alias in statement.names:
            # Without the other names of the statement.
            one: ast.stmt = ast.Import(names=[alias])
            if isinstance(statement, ast.ImportFrom):
                one = ast.ImportFrom(statement.module, [alias], statement.level)
            yield alias.asname or alias.name.partition(".")[0], one
        return
    if isinstance(statement, Definition):
        yield statement.name, statement
        return
    names = dict.fromkeys(_changed(statement))
    for name in names:
        yield name, statement


def _changed(statement: ast.stmt) -> Iterator[str]:
    is_call = isinstance(statement, ast.Expr)
    for node in ast.walk(statement):
        if isinstance(node, Definition):
            yield node.name  # inside of an if or try
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, (ast.Name, ast.Subscript, ast.Attribute)) and (
            # TABLE["a"] = 1, and TABLE.update(a=1)
            is_call or isinstance(node.ctx, ast.Store)
        ):
            inner: ast.AST = node
            while isinstance(inner, (ast.Subscript, ast.Attribute)):
                inner = inner.value
            if isinstance(inner, ast.Name):
                yield inner.id


# --- without source, and values ---------------------------------------------


def _functions(cls: type) -> Iterable[Any]:
    for value in vars(cls).values():
        function = inspect.unwrap(getattr(value, "__func__", value))
        if inspect.isfunction(function):
            yield function


def _shape_of(function: FunctionType) -> str:
    return _shape(function.__code__)


def _shape(code: CodeType) -> str:
    constants = [_constant(constant) for constant in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, constants))


def _constant(value: object) -> str:
    if isinstance(value, CodeType):
        return _shape(value)
    if isinstance(value, frozenset):  # its order differs between processes
        return repr(sorted(map(repr, value)))
    return repr(value)


def _cell(cell: Any, depth: int) -> str:
    try:
        return _value(cell.cell_contents, depth)
    except ValueError:
        return ""  # empty


def _value(value: Any, depth: int) -> str:
    """Return a value that a function closes over; never its address."""
    if type(value) in _PLAIN:
        return ascii(value)
    if depth > _DEPTH:  # it holds itself
        return type(value).__qualname__
    if isinstance(value, Mapping):
        pairs = [(_value(k, depth + 1), _value(v, depth + 1)) for k, v in value.items()]
        return f"{type(value).__qualname__}{sorted(pairs)}"
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_value(one, depth + 1) for one in value]
        if isinstance(value, (set, frozenset)):
            items.sort()
        return f"{type(value).__qualname__}{items}"
    if _is_code(value):
        return _source_of(value, (), depth + 1)
    inside = getattr(value, "__dict__", {})
    return f"{type(value).__module__}.{type(value).__qualname__}" + (
        _source_of_class(type(value), ()) + _value(dict(inside), depth + 1)
        if inside
        else ""
    )


def _is_code(value: object) -> TypeGuard[Any]:
    return isinstance(value, (type, FunctionType, functools.partial)) or hasattr(
        value, "__func__"
    )
