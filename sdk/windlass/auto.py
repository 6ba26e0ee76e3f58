"""``@task(checkpoint="auto")``: each ``await f(...)`` of a task function becomes a step, as the function is decorated.

The function's source is parsed, ``await f(x)`` is made ``await auto_step(f, "f", "order.py:12")(x)``, and the function
gets the code that this compiles to. Nothing else of it changes: name, lines, defaults, annotations, closure, globals.
"""

import ast
import inspect
import linecache
from types import CodeType, FunctionType
from typing import Any, Final, NoReturn

from windlass.auto_steps import auto_step
from windlass.rewriting import HELPER, Rewriter

_HOW: Final = "Or make steps of what is to be saved, with @step, and leave checkpoint='auto' away."


def make_awaits_steps(function: Any) -> None:
    """Make each ``await f(...)`` of an asynchronous function a step.

    Raises:
        TypeError: It cannot be done; the text says in which line, and what to write instead.
    """
    code = function.__code__ if inspect.isfunction(function) else None
    if code is None or getattr(function, "__wrapped__", None) is not None:
        _refuse(function, "another decorator stands between @task and the function. Write @task as the lowest one.")
    if inspect.isasyncgenfunction(function):
        _refuse(function, "an asynchronous generator, with `yield`, cannot be a task. Return a list.")
    if not inspect.iscoroutinefunction(function):
        _refuse(
            function, "in a synchronous function there is no `await`. Write `async def`, or decorate steps with @step."
        )
    tree, node = _parsed(function, code)
    rewriter = Rewriter(function, code)
    _check_decorators(function, node, rewriter)
    for statement in node.body:
        rewriter.visit(statement)
    if rewriter.problems:
        more = len(rewriter.problems) - 1
        raise TypeError(rewriter.problems[0] + (f" (and {more} more)" if more else ""))
    new = _compiled(tree, node, code)
    if new is None or (new.co_freevars, new.co_varnames[: new.co_argcount]) != (
        code.co_freevars,
        code.co_varnames[: code.co_argcount],
    ):
        _refuse(function, "its source is no longer the one that was imported.")
    function.__globals__[HELPER] = auto_step
    function.__code__ = new


def _refuse(function: Any, problem: str) -> NoReturn:
    code = getattr(inspect.unwrap(function), "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}: " if code is not None else ""
    raise TypeError(f"{where}@task(checkpoint='auto') of {getattr(function, '__name__', function)!r}: {problem}")


def _parsed(function: FunctionType, code: CodeType) -> tuple[ast.Module, ast.AsyncFunctionDef]:
    """Return the module that a function stands in, and the function in it."""
    linecache.checkcache(code.co_filename)  # code that travels in the Task has its lines there, and nowhere else
    lines = linecache.getlines(code.co_filename, function.__globals__)
    if not lines:
        _refuse(function, f"its source is not there to be read. Write it into a file. {_HOW}")
    try:
        tree = ast.parse("".join(lines), code.co_filename)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        _refuse(function, "its source is no longer the one that was imported.")
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.AsyncFunctionDef)
            and node.name == code.co_name
            and _line_of(node) == code.co_firstlineno
        ):
            return tree, node
    _refuse(
        function, "its source is not where its code says: another decorator has made the function, or the file changed."
    )


def _line_of(node: ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _check_decorators(function: FunctionType, node: ast.AsyncFunctionDef, rewriter: Rewriter) -> None:
    """Refuse a function that a decorator has made: what would be rewritten is the decorator's code, not the user's."""
    from windlass.tasks import task

    if not node.decorator_list:
        _refuse(function, "write it as a decorator, in the line above the function.")
    lowest = node.decorator_list[-1]
    made_by = rewriter.resolve(lowest.func if isinstance(lowest, ast.Call) else lowest)
    if len(node.decorator_list) > 1 and made_by is not task:
        _refuse(function, "another decorator stands between @task and the function. Write @task as the lowest one.")


def _compiled(tree: ast.Module, node: ast.AsyncFunctionDef, code: CodeType) -> CodeType | None:
    """Return the code of the rewritten function: compiled within what it stands in, so that its closure is the same."""
    kept = [one for one in tree.body if _is_future(one) or any(inner is node for inner in ast.walk(one))]
    module = ast.fix_missing_locations(ast.Module(kept, type_ignores=[]))
    rest = [compile(module, code.co_filename, "exec", dont_inherit=True)]
    while rest:
        found = rest.pop()
        if (found.co_qualname, found.co_firstlineno) == (code.co_qualname, code.co_firstlineno):
            return found
        rest += [constant for constant in found.co_consts if isinstance(constant, CodeType)]
    return None


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"
