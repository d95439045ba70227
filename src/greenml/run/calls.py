"""Functions that are measured at every call: plain ones, coroutines, generators and asynchronous generators."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])
Begin = Callable[[], AbstractContextManager[Any]]  # makes the run of one call


def tracked(function: Function, begin: Begin) -> Function:
    """Return a function of the same kind whose every call is measured, as a run of its own.

    Args:
        function: of any kind. A plain one that returns a coroutine or a generator is measured until that ends.
        begin: makes the run of a call.
    """
    method = getattr(type(function), "__call__", function)  # noqa: B004  of an object that is called like a function
    kinds: tuple[tuple[Callable[[Any], bool], Callable[[Any, Begin], Callable[..., Any]]], ...] = (
        (inspect.isasyncgenfunction, _of_async_generators),
        (inspect.iscoroutinefunction, _of_coroutines),
        (inspect.isgeneratorfunction, _of_generators),
    )
    wrap = next((wrap for is_kind, wrap in kinds if is_kind(function) or is_kind(method)), _of_results)
    return cast("Function", functools.wraps(function)(wrap(function, begin)))


def _of_results(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    def measured(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        with ExitStack() as stack:
            stack.enter_context(begin())
            result = function(*arguments, **keywords)
            if inspect.iscoroutine(result):
                return _coroutine(result, stack.pop_all())
            if inspect.isgenerator(result):
                return _generator(result, stack.pop_all())
            return result

    return measured


def _of_coroutines(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def measured(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        with begin():
            return await function(*arguments, **keywords)

    return measured


def _of_generators(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    def measured(*arguments: Any, **keywords: Any) -> Generator[Any, Any, Any]:  # noqa: ANN401
        with begin():
            return (yield from function(*arguments, **keywords))

    return measured


def _of_async_generators(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def measured(*arguments: Any, **keywords: Any) -> AsyncGenerator[Any, Any]:  # noqa: ANN401
        with begin():
            generator = function(*arguments, **keywords)
            step = anext(generator)
            try:
                while True:  # what "yield from" does for other generators
                    item = await step
                    try:
                        step = generator.asend((yield item))
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001  the reader threw it in, for the generator to handle
                        step = generator.athrow(error)
            except StopAsyncIteration:
                return
            finally:
                await generator.aclose()

    return measured


async def _coroutine(result: Awaitable[Any], stack: ExitStack) -> Any:  # noqa: ANN401
    with stack:
        return await result


def _generator(result: Generator[Any, Any, Any], stack: ExitStack) -> Generator[Any, Any, Any]:
    with stack:
        return (yield from result)
