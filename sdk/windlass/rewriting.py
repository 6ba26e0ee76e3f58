"""What ``@task(checkpoint="auto")`` writes into a function's syntax tree, and what it refuses.

Whatever could not be a step is refused while the module is imported, so that nobody believes something to be saved that
is not.
"""

import ast
import asyncio
import os
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from windlass.auto_steps import JOINS, STARTS

HELPER: Final = "__windlass_auto_step__"
"""Name of :func:`windlass.auto_steps.auto_step` in the globals of functions that call it."""

_ASYNC_FOR: Final = (
    "`async for` asks for its items again in each attempt, and they may be others. Write a function that returns them "
    "as a list: `for item in await read_all():`."
)


class Rewriter(ast.NodeTransformer):
    """Makes steps in the body of one function, and notes what cannot be one.

    Attributes:
        problems: What is to be refused, with file and line.
    """

    def __init__(self, function: FunctionType, code: CodeType) -> None:
        self.problems: list[str] = []
        self._function = function
        self._file = code.co_filename
        self._shown = os.path.basename(code.co_filename)  # noqa: PTH119 - as in execution
        self._locals = {*code.co_varnames, *code.co_cellvars}
        self._cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        self._groups: set[str] = set()
        self._lazy = False
        """In a generator expression, whose awaits happen whenever somebody asks for the next item."""

    def resolve(self, node: ast.expr) -> Any:
        """Return what a dotted name outside the function stands for, as far as that is known by now; else None."""
        if isinstance(node, ast.Attribute):
            owner = self.resolve(node.value)
            return getattr(owner, node.attr, None) if isinstance(owner, ModuleType) else None
        if not isinstance(node, ast.Name) or node.id in self._locals:
            return None
        if node.id in self._cells:
            try:
                return self._cells[node.id].cell_contents
            except ValueError:  # it gets its value later
                return None
        return self._function.__globals__.get(node.id)

    def visit_Await(self, node: ast.Await) -> ast.Await:
        """Make the awaited call a step."""
        if self._lazy:
            self._problem(
                node, "`await` in a generator expression happens nobody knows when. Write a list: [await f(x) ...]."
            )
        elif isinstance(node.value, ast.Call):
            node.value = self._step(node.value)
        else:
            self._problem(
                node,
                f"`await {_short(node.value)}` waits for something that was called elsewhere, which is no step. Write "
                "the call behind `await`; for several at once `await gather(f(x), g(y))`, or an asyncio.TaskGroup.",
            )
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Look for tasks that are started."""
        return self._started(node) if self._starts(node) else self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        """Note task groups. What else is entered is entered again in each attempt, like all between steps."""
        for item in node.items:
            made = item.context_expr
            group = isinstance(made, ast.Call) and self.resolve(made.func) is asyncio.TaskGroup
            if group and isinstance(item.optional_vars, ast.Name):
                self._groups.add(item.optional_vars.id)
        return self.generic_visit(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AsyncFor:
        """Refuse it: its items come from awaits that nobody saves."""
        self._problem(node, _ASYNC_FOR)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        """Refuse asynchronous ones, for the same reason."""
        if node.is_async:
            self._problem(node.iter, _ASYNC_FOR)
        return self.generic_visit(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.GeneratorExp:
        """Refuse awaits in it, but for the first iterable, which is evaluated where it stands."""
        self._items(node, self.visit)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Leave functions in the function as they are, but for what is evaluated here."""
        return self._nested(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """Refuse those whose effect on the function would be lost when they are not run again."""
        changed = [name for one in ast.walk(node) if isinstance(one, ast.Nonlocal) for name in one.names]
        if changed:
            self._problem(
                node,
                f"{node.name}() changes {changed[0]!r} of the function around it. As a step it does not run again in "
                "a later attempt, and nothing would be changed. Return the value instead.",
            )
        return self._nested(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """Leave it as it is."""
        return self._nested(node)

    def _nested(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> ast.AST:
        for argument in (
            *node.args.defaults,
            *filter(None, node.args.kw_defaults),
            *getattr(node, "decorator_list", ()),
        ):
            if any(isinstance(inner, ast.Await) for inner in ast.walk(argument)):
                self._problem(argument, "`await` in a default or a decorator is no step. Give the value a name first.")
        return node

    def _step(self, call: ast.Call) -> ast.Call:
        """Return a call that is to be awaited, as a step."""
        if self._starts(call):
            return self._started(call)
        known = self.resolve(call.func)
        if any(known is one for one in JOINS):
            return self._joined(call, several=known is JOINS[0])
        name = ast.unparse(call.func)
        if known is asyncio.to_thread and call.args:
            name = ast.unparse(call.args[0])
        if len(name) > 200 or not name.isprintable() or set(name) & set("/#~"):
            self._problem(
                call,
                f"`{_short(call.func)}` cannot be a step's name. Give what is called a name first: `f = ...`, "
                "`await f(x)`.",
            )
        self.generic_visit(call)
        helper = ast.Call(
            ast.Name(HELPER, ast.Load()),
            [call.func, ast.Constant(name), ast.Constant(f"{self._shown}:{call.lineno}")],
            [],
        )
        for made in (helper, helper.func, *helper.args[1:]):
            ast.copy_location(made, call.func)
        call.func = helper
        return call

    def _joined(self, call: ast.Call, *, several: bool) -> ast.Call:
        """Make steps of the calls that ``gather`` and its kin are given."""
        for at, argument in enumerate(call.args):
            if not several and at > 0:
                call.args[at] = self.visit(argument)
            elif isinstance(argument, ast.Call):
                call.args[at] = self._step(argument)
            elif several and (made := _written_out(argument)) is not None:
                self._items(made, self._step)
            else:
                self._problem(
                    argument,
                    f"`{_short(argument)}` was called elsewhere, or may be no call at all, so it is no step. Write the "
                    f"calls in the arguments of {_short(call.func)}: `f(x), g(y)`, or `*(f(x) for x in items)`.",
                )
        for keyword in call.keywords:
            if not several and keyword.arg in ("fut", "arg") and isinstance(keyword.value, ast.Call):
                keyword.value = self._step(keyword.value)
            else:
                keyword.value = self.visit(keyword.value)
        return call

    def _items(self, made: ast.GeneratorExp | ast.ListComp, item: Callable[[Any], ast.expr]) -> None:
        """Go through a comprehension; ``item`` is what becomes of its element."""
        first, *rest = made.generators
        if first.is_async:
            self._problem(first.iter, _ASYNC_FOR)
        first.iter = self.visit(first.iter)
        lazy, self._lazy = self._lazy, self._lazy or isinstance(made, ast.GeneratorExp)
        made.elt = item(made.elt)
        first.ifs = [self.visit(condition) for condition in first.ifs]
        made.generators = [first, *(self.visit(one) for one in rest)]
        self._lazy = lazy

    def _starts(self, call: ast.Call) -> bool:
        known = self.resolve(call.func)
        named = isinstance(call.func, ast.Attribute) and call.func.attr == "create_task"
        return named or any(known is one for one in STARTS)

    def _started(self, call: ast.Call) -> ast.Call:
        """Make a step of what a task group starts; other tasks are refused."""
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        if not (isinstance(owner, ast.Name) and owner.id in self._groups):
            self._problem(
                call,
                f"`{_short(call.func)}()` starts what nobody can make a step of here. Use `group.create_task(f(x))` in "
                "`async with asyncio.TaskGroup() as group:`, with asyncio imported at the top of the module; or "
                "`await gather(f(x), g(y))`.",
            )
        elif call.args and isinstance(call.args[0], ast.Call):
            call.args[0] = self._step(call.args[0])
        else:
            self._problem(
                call, f"`{_short(call)}` starts what was called elsewhere. Write the call in it: create_task(f(x))."
            )
        return call

    def _problem(self, node: ast.AST, problem: str) -> None:
        self.problems.append(f"{self._file}:{getattr(node, 'lineno', 0)}: checkpoint='auto': {problem}")


def _written_out(node: ast.expr) -> ast.GeneratorExp | ast.ListComp | None:
    """Return the comprehension of ``*(f(x) for x in items)``, which ``gather`` reads at once."""
    made = node.value if isinstance(node, ast.Starred) else None
    return made if isinstance(made, ast.GeneratorExp | ast.ListComp) and isinstance(made.elt, ast.Call) else None


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:59]}…"
