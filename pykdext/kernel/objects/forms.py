"""Layouts of the executive's structures for any kernel: known ones, else those of related builds that fit the data."""

from __future__ import annotations

from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from pykdext.errors import StructSizeError
from pykdext.kernel.kernel import Kernel
from pykdext.model import Struct, TypeLayout
from pykdext.model.layouts import make_struct
from pykdext.model.structtables import Kernels, list_layouts

_Fits = Callable[[Struct], bool]


def find_form(
    kernel: Kernel,
    type_name: str,
    paths: Sequence[str],
    fits: _Fits,
    sizes: Optional[Mapping[str, int]] = None,
    signed: Sequence[str] = (),
) -> Optional[Struct]:
    """The layout of a structure that ``fits``: the kernel's own, else one of another build of the same processor.

    Layouts of the nearest builds are tried first. None: none fits.
    """
    for form in _iter_forms(kernel, type_name, paths, sizes, signed):
        if fits(form):
            return form
    return None


def list_forms(kernel: Kernel, type_name: str, paths: Sequence[str], *, nearest_only: bool = False) -> List[Struct]:
    """The kernel's own layout of some fields alone, else every one of kernels with pointers of the same size.

    For structures that hold nothing of the processor, and readers that believe only what leads to where it must.
    Layouts of the nearest builds come first, or are the only ones; of those alike in these fields there is one.
    """
    known = _find_own(kernel, type_name, paths)
    if known is not None:
        return [known]
    width = kernel.target.pointer_size
    others = _list_nearest(kernel, type_name, lambda kernels: kernels.machine.pointer_size == width)
    nearest = others[0].distance if others else 0
    forms: Dict[Tuple[Optional[int], ...], Struct] = {}
    for other in others:
        form = _borrow(type_name, other, paths)
        if form.has(*paths) and (other.distance == nearest or not nearest_only):
            forms.setdefault(tuple(form.offset(path) for path in paths), form)
    return list(forms.values())


def list_build_forms(kernel: Kernel, type_name: str, paths: Sequence[str]) -> List[Struct]:
    """The kernel's own layout of some fields alone, else all that kernels of its build and processor have."""
    known = _find_own(kernel, type_name, paths)
    if known is not None:
        return [known]
    build, machine = kernel.build, kernel.target.machine
    others = _list_nearest(kernel, type_name, lambda kernels: kernels.covers(machine, build))
    forms = (_borrow(type_name, other, paths) for other in others)
    return [form for form in forms if form.has(*paths)]


class _Other(NamedTuple):
    """The layout of other kernels, and how far their builds are from the one at hand."""

    distance: int
    kernels: Kernels
    layout: TypeLayout


def _find_own(kernel: Kernel, type_name: str, paths: Sequence[str]) -> Optional[Struct]:
    """The kernel's own layout, if it tells all of ``paths``."""
    known = kernel.struct(type_name, *paths)
    return known if known is not None and known.has(*paths) else None


def _list_nearest(kernel: Kernel, type_name: str, applies: Callable[[Kernels], bool]) -> List[_Other]:
    """The shipped layouts of a structure of kernels that apply, those of the nearest builds first."""
    others = [
        _Other(abs(kernels.last_build - kernel.build), kernels, shipped.layout)
        for shipped in list_layouts(type_name)
        for kernels in shipped.kernels
        if applies(kernels)
    ]
    return sorted(others, key=lambda other: other.distance)


def _borrow(
    type_name: str,
    other: _Other,
    paths: Sequence[str],
    signed: Sequence[str] = (),
    sizes: Optional[Mapping[str, int]] = None,
) -> Struct:
    """The layout of another kernel, with a source that says so; StructSizeError where it has other ``sizes``."""
    source = f"table of build {other.kernels.last_build}, by calibration"
    return make_struct(type_name, source, other.layout, paths, _nested_types(other.kernels), signed, sizes)


def _iter_forms(
    kernel: Kernel,
    type_name: str,
    paths: Sequence[str],
    sizes: Optional[Mapping[str, int]],
    signed: Sequence[str],
) -> Iterator[Struct]:
    try:
        known = kernel.struct(type_name, *paths, sizes=sizes, signed=signed)
    except StructSizeError:
        known = None
    if known is not None:
        yield known
    machine = kernel.target.machine
    for other in _list_nearest(kernel, type_name, lambda kernels: kernels.machine is machine):
        try:
            yield _borrow(type_name, other, paths, signed, sizes)
        except StructSizeError:
            continue


def _nested_types(kernels: Kernels) -> Callable[[str], Optional[TypeLayout]]:
    """The types of the same build as a row."""

    def find_type(name: str) -> Optional[TypeLayout]:
        for shipped in list_layouts(name):
            if any(other.covers(kernels.machine, kernels.last_build) for other in shipped.kernels):
                return shipped.layout
        return None

    return find_type
