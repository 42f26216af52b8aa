"""Unpickles a model's file and nothing else: which names it may contain, and how they are held.

Part of the gate program beside it: the standard library of Python 3.9 and what the pickle names.
"""

from __future__ import annotations

import importlib
import pickle
import re
import types
from collections.abc import Sequence
from typing import IO, Any, cast


class RefusedError(Exception):
    """The file holds something that no model needs, or that nobody can vouch for."""


_BUILTIN = (
    *("object", "int", "float", "complex", "str", "bytes", "bytearray", "bool", "list", "tuple"),
    *("dict", "set", "frozenset", "slice", "range", "NoneType", "Ellipsis"),
)
_UFUNCS = ("log1p", "expm1", "log", "log2", "log10", "exp", "sqrt", "abs", "absolute", "square")
_SCALARS = (
    *("bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "longdouble", "complex64", "complex128", "str_", "bytes_"),
    *("intc", "intp", "uintc", "uintp", "longlong", "ulonglong", "datetime64", "timedelta64"),
)


def _names(module: str, names: Sequence[str]) -> set[str]:
    return {f"{module}.{name}" for name in names}


EXACT = frozenset(
    set[str]()
    .union(*(_names(module, _BUILTIN) for module in ("builtins", "__builtin__")))
    .union(*(_names(f"numpy{core}", _UFUNCS) for core in ("", "._core._multiarray_umath")))
    .union(_names("numpy.core._multiarray_umath", _UFUNCS))
    .union(_names("numpy", (*_SCALARS, "dtype", "ndarray")))
    .union(
        *(
            {
                f"numpy.{core}.multiarray._reconstruct",
                f"numpy.{core}.multiarray.scalar",
                f"numpy.{core}.numeric._frombuffer",
            }
            for core in ("core", "_core")
        )
    )
    .union(
        {
            *("collections.OrderedDict", "collections.defaultdict", "collections.deque"),
            *("copyreg._reconstructor", "copy_reg._reconstructor", "_codecs.encode"),
            *("datetime.datetime", "datetime.date", "datetime.timedelta", "datetime.timezone"),
            *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "functools.partial"),
            *("numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor"),
            *("numpy.random._pickle.__bit_generator_ctor", "numpy.random._mt19937.MT19937"),
            *("numpy.random._pcg64.PCG64", "numpy.random.bit_generator.SeedSequence"),
            *("numpy.random._mt19937.__pyx_unpickle_MT19937",),
            *("numpy.random.bit_generator.__pyx_unpickle_SeedSequence",),
            *("numpy.ma.core.MaskedArray", "numpy.ma.MaskedArray", "numpy.ma.core._mareconstruct"),
            *("joblib.numpy_pickle.NumpyArrayWrapper", "scipy.special._ufuncs.expit"),
            *("scipy.interpolate._bsplines.BSpline", "scipy.interpolate.BSpline"),
            *("scipy._lib.array_api_compat.numpy._aliases.asarray", "numpy.mean", "numpy.median"),
            *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
            *("torch.Size", "torch.device", "torch.float32"),
        }
    )
)
"""Names that are let in as they are; each was looked at by itself."""

_CLASS = r"_{0,2}[A-Z]\w*"
RECONSTRUCTOR = r"__pyx_unpickle_\w+|_unpickle_block|_new_Index|newObj|_passthrough_scorer"
_FAMILIES = tuple(
    (re.compile(module, re.ASCII), re.compile(name, re.ASCII))
    for module, name in (
        (r"sklearn(\.\w+)*", rf"{_CLASS}|{RECONSTRUCTOR}|_identity"),
        (r"sklearn\.metrics\._(classification|ranking|regression)", r"\w+_(score|loss|error)"),
        (
            r"sklearn\.feature_selection\._(univariate_selection|mutual_info)",
            r"f_classif|f_regression|chi2|mutual_info_(classif|regression)",
        ),
        (
            r"pandas\.(arrays|core\.(frame|series|internals|indexes|arrays|dtypes)(\.\w+)*)",
            rf"{_CLASS}|{RECONSTRUCTOR}",
        ),
        (
            r"pandas",
            r"DataFrame|Series|\w*Index|Categorical|CategoricalDtype|StringDtype|Time(stamp|delta)",
        ),
        (r"pandas\._libs(\.\w+)*", rf"{_CLASS}|{RECONSTRUCTOR}"),
        (r"scipy\.sparse(\.\w+)*", r"(csr|csc|coo|dia|bsr|lil|dok)_(matrix|array)"),
        (r"xgboost\.(core|sklearn)", r"Booster|XGB\w+"),
        (r"lightgbm\.(basic|sklearn)", r"Booster|LGBM\w+|_LGBM\w+"),
        (r"catboost\.core", r"CatBoost\w*"),
        (r"numpy\.dtypes", r"\w+DType"),
    )
)
_CLOSED = re.compile(
    r"(^|\.)(_?tests?\w*|_testing|estimator_checks|_joblib|datasets|externals|conftest"
    r"|_mocking|parallel|_plotting|_show_versions)(\.|$)"
)
"""Modules of the families that hold no part of a model."""


def allowed(module: str, name: str, extra: frozenset[str] = frozenset()) -> bool:
    """Say whether a pickle may name this; whatever is not known is not.

    Examples
    --------
    >>> allowed("sklearn.tree._classes", "DecisionTreeClassifier"), allowed("os", "system")
    (True, False)
    >>> allowed("sklearn.utils._testing", "TempMemmap"), allowed("sklearn", "os.system")
    (False, False)
    """
    if "." in name or not name.isascii() or not module.isascii():
        return False  # a dotted name walks through attributes, to anything
    full = f"{module}.{name}"
    if full in EXACT or full in extra:
        return True
    if _CLOSED.search(module):
        return False
    return any(m.fullmatch(module) and n.fullmatch(name) for m, n in _FAMILIES)


_Python = cast("Any", pickle)._Unpickler  # noqa: SLF001  the C form does not ask for every name
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_NO_OBJECTS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for ``_codecs.encode``, as old protocols write bytes; other codecs unpack."""
    if encoding != "latin1":
        raise RefusedError(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


class Seen:
    """What a file turned out to hold."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.versions: dict[str, str] = {}
        """By package, what wrote the model."""
        self.kind = ""
        """The class of the outermost object."""


class GatedUnpickler(_Python):
    """Loads a pickle, joblib's arrays included, that names nothing but parts of models."""

    dispatch = dict(_Python.dispatch)  # noqa: RUF012  pickle's own way to say what an opcode does

    def __init__(self, file: IO[bytes], extra: frozenset[str], seen: Seen) -> None:
        super().__init__(file)
        self.file_handle = file
        self.mmap_mode = None
        self.filename = ""
        self._extra = extra
        self._seen = seen
        self._given: dict[int, Any] = {}

    @property
    def np(self) -> Any:
        """Return numpy, for joblib's wrapper."""
        return importlib.import_module("numpy")

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle may name; RefusedError for the rest."""
        full = f"{module}.{name}"
        if not allowed(module, name, self._extra):
            raise RefusedError(full)
        self._seen.names.add(full)
        if full == "_codecs.encode":
            return self._give(_latin1)
        if name == "NoneType":
            return self._give(type(None))
        found = getattr(importlib.import_module(_RENAMED.get(module, module)), name)
        if isinstance(found, types.ModuleType):
            raise RefusedError(full)  # a family's pattern met an imported module
        if full in EXACT or full in self._extra or not _stranger(found, module, name):
            return self._give(found)
        raise RefusedError(full)

    def _give(self, found: Any) -> Any:
        self._given[id(found)] = found
        return found

    def _check_callable(self, found: Any) -> None:
        if id(found) not in self._given:
            raise RefusedError(f"a call of {type(found).__name__}, which it did not name")

    def get_extension(self, code: int) -> Any:
        """Refuse the extension registry: it names things by number."""
        raise RefusedError(f"extension {code} of the registry")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse what stands outside the file."""
        raise RefusedError(f"persistent object {str(pid)[:40]!r}")

    def load_reduce(self) -> None:
        """Call only what was asked for by name."""
        self._check_callable(self.stack[-2])
        _Python.load_reduce(self)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        """Make objects only of classes that were asked for by name."""
        self._check_callable(self.stack[-2])
        _Python.load_newobj(self)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        """Make objects only of classes that were asked for by name."""
        self._check_callable(self.stack[-3])
        _Python.load_newobj_ex(self)

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _instantiate(self, klass: Any, args: Any) -> None:
        self._check_callable(klass)
        _Python._instantiate(self, klass, args)  # noqa: SLF001  its INST and OBJ come here

    def load_build(self) -> None:
        """Give an object its state; never a class, module or function one."""
        target = self.stack[-2]
        if isinstance(target, _NO_OBJECTS) or id(target) in self._given:
            raise RefusedError(f"a state for {target!r:.60}")
        state = self.stack[-1]
        if isinstance(state, dict):
            version = cast("dict[str, Any]", state).get("_sklearn_version")
            if isinstance(version, str):
                self._seen.versions["scikit-learn"] = version
        _Python.load_build(self)
        if type(target).__name__ == "NumpyArrayWrapper":
            self.stack[-1] = self._array(target)

    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, wrapper: Any) -> Any:
        """Read the array that joblib wrote behind its wrapper."""
        numpy = self.np
        sound = isinstance(wrapper.dtype, numpy.dtype) and type(wrapper.shape) is tuple
        shape = cast("tuple[Any, ...]", wrapper.shape)
        if not sound or not all(type(size) is int and size >= 0 for size in shape):
            raise RefusedError("an array of joblib with an odd head")
        if wrapper.dtype.hasobject:
            inner = GatedUnpickler(self.file_handle, self._extra, self._seen)
            array = inner.load()
            if type(array) is not numpy.ndarray:
                raise RefusedError("an array of joblib that is none")
            return array
        if not (isinstance(wrapper.subclass, type) and id(wrapper.subclass) in self._given):
            raise RefusedError("an array of joblib of a class that it did not name")
        if wrapper.dtype.itemsize == 0:
            raise RefusedError("an array of joblib with elements of no size")
        wrapper.allow_mmap = False
        words = wrapper.read.__code__.co_varnames[: wrapper.read.__code__.co_argcount]
        return wrapper.read(self, False) if len(words) > 2 else wrapper.read(self)


def _stranger(found: Any, module: str, name: str) -> bool:
    """Say whether a family's module merely imported this from elsewhere."""
    root = module.split(".")[0]
    home = str(getattr(found, "__module__", "") or "").split(".")[0]
    if isinstance(found, type):
        return home != root
    plain = isinstance(found, (types.FunctionType, types.BuiltinFunctionType))
    cython = type(found).__name__ == "cython_function_or_method"
    if not (plain or cython) or (home and home != root):
        return True
    known = rf"{RECONSTRUCTOR}|_identity|\w+_(score|loss|error)|f_classif|f_regression|chi2"
    return re.fullmatch(rf"{known}|mutual_info_\w+", name) is None
