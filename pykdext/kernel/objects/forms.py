"""Layouts of the executive's structures for any kernel: known ones, else those of related builds that fit the data."""

from __future__ import annotations

from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

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
    known = kernel.struct(type_name, *paths)
    if known is not None and known.has(*paths):
        return [known]
    build, width = kernel.target.facts.build or 0, kernel.target.pointer_size
    others = [
        (abs(kernels.last_build - build), number, kernels, shipped.layout)
        for number, shipped in enumerate(list_layouts(type_name))
        for kernels in shipped.kernels
        if kernels.machine.pointer_size == width
    ]
    nearest = min((distance for distance, *_ in others), default=0)
    forms: Dict[Tuple[Optional[int], ...], Struct] = {}
    for distance, _, kernels, layout in sorted(others, key=lambda other: other[:2]):
        form = _borrow(type_name, layout, paths, kernels)
        if form.has(*paths) and (distance == nearest or not nearest_only):
            forms.setdefault(tuple(form.offset(path) for path in paths), form)
    return list(forms.values())


def list_build_forms(kernel: Kernel, type_name: str, paths: Sequence[str]) -> List[Struct]:
    """The kernel's own layout of some fields alone, else all that kernels of its build and processor have."""
    known = kernel.struct(type_name, *paths)
    if known is not None and known.has(*paths):
        return [known]
    build, machine = kernel.target.facts.build or 0, kernel.target.machine
    forms = [
        _borrow(type_name, shipped.layout, paths, kernels)
        for shipped in list_layouts(type_name)
        for kernels in shipped.kernels
        if kernels.covers(machine, build)
    ]
    return [form for form in forms if form.has(*paths)]


def _borrow(type_name: str, layout: TypeLayout, paths: Sequence[str], kernels: Kernels) -> Struct:
    source = f"table of build {kernels.last_build}, by calibration"
    return make_struct(type_name, source, layout, paths, _nested_types(kernels))


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
    build, machine = kernel.target.facts.build or 0, kernel.target.machine
    others = [
        (abs(kernels.last_build - build), number, kernels, shipped.layout)
        for number, shipped in enumerate(list_layouts(type_name))
        for kernels in shipped.kernels
        if kernels.machine is machine
    ]
    for _, _, kernels, layout in sorted(others, key=lambda other: other[:2]):
        source = f"table of build {kernels.last_build}, by calibration"
        try:
            yield make_struct(type_name, source, layout, paths, _nested_types(kernels), signed, sizes)
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
