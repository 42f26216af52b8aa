"""Loading a model, whatever its format: one `Model` that can be asked, and what it says of itself.

    joblib, skops      a fitted object with `predict`: scikit-learn and what follows its ways
    adapter            the project's own ``load(folder)`` and ``predict(model, frame)``
    mlflow             an MLflow model: its native object where it is one of those above and
                       below, else `mlflow.pyfunc`
    xgboost, lightgbm, catboost, onnx       a framework's own file

Runs in the model's own environment, on the standard library of Python 3.9; a framework is
imported when a model needs it. Whatever hinders loading is a `LoadError` with a sentence for
the data scientist.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import pickle
import re
import sys
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, cast

if TYPE_CHECKING:
    from penstock.inference.program import bodies, rows
    from penstock.inference.program.bodies import Asked
else:
    from penstock_worker import bodies, rows

DECIDES_APART = ("FixedThresholdClassifier", "TunedThresholdClassifierCV", "SVC", "NuSVC")
"""Classifiers whose class is not the one of the greatest probability: they are asked twice."""
DISTRIBUTIONS = {
    "PIL": "Pillow",
    "catboost": "catboost",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
"""Modules whose package has another name."""
GENERATED = re.compile(r"Column_\d+|f\d+|\d+")
"""How frameworks name the columns of an array, which has no names."""

Ask = Callable[["Asked"], rows.Answer]


class LoadError(Exception):
    """The model cannot be loaded; says why, and what to do."""

    def __init__(self, code: str, sentence: str, hint: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.hint = hint


class Source(NamedTuple):
    """A packed version's model: where it lies, and what the version says of it."""

    folder: Path
    """The version's folder."""
    path: Path
    """The model's file or folder."""
    manifest: Mapping[str, Any]
    """penstock.json."""
    stated: rows.Stated


@dataclass
class Model:
    """A loaded model."""

    ask: Ask
    framework: str = ""
    """Its module, such as ``sklearn``; empty where none is known."""
    feature_names: list[str] | None = None
    n_features: int | None = None
    classes: list[Any] | None = None
    n_classes: int | None = None
    """Where the classes themselves are not known."""
    task: str | None = None
    inputs: list[dict[str, Any]] | None = None
    """What it says of its inputs: ``name``, ``datatype``, ``optional``, ``shape``, where known."""
    warnings: list[str] = field(default_factory=list[str])
    fitted: Any = None
    """The fitted object behind `ask`, where accelerated.py may find a faster call of it."""
    method: str = "predict"
    """Of the fitted object, whose answer is read: ``predict_proba`` or ``predict``."""
    apart: bool = False
    """Whether it is asked for its classes, too."""
    made: bool = False
    """Whether columns are made into types of their own for it."""

    def describe(self) -> dict[str, Any]:
        """Return what the model is, as plain JSON."""
        module = sys.modules.get(self.framework)
        version = getattr(module, "__version__", None)
        return {
            "framework": DISTRIBUTIONS.get(self.framework, self.framework) or None,
            "framework_version": None if version is None else str(version),
            "feature_names": self.feature_names,
            "n_features": self.n_features,
            "classes": self.classes,
            "n_classes": self.n_classes,
            "task": self.task,
            "inputs": self.inputs,
            "warnings": self.warnings,
        }


def load(source: Source, path: str = "own") -> Model:
    """Load a model.

    Parameters
    ----------
    path
        Which call of it answers: ``own``, or one of accelerated.py.

    Raises
    ------
    LoadError
        PS570 its framework is not there, PS571 code that it needs is not there, PS572 its file
        cannot be read, PS573 it cannot predict, PS574 it was written by another version of its
        framework, PS575 the adapter is not one, PS576 its inputs or outputs cannot be served,
        PS577 its MLmodel is not understood, PS590 it has no such path.
    """
    kind = str(source.manifest["format"])
    loader = LOADERS.get(kind)
    if loader is None:
        known = ", ".join(LOADERS)
        raise LoadError("PS572", f"The format {kind} is not known.", f"Known are {known}.")
    with _skew_noted() as skew:
        model = loader(source)
    model.warnings += skew
    return model if path == "own" else along(path, source, model)


def along(path: str, source: Source, model: Model) -> Model:
    """Return a loaded model that answers by another call of it."""
    accelerated = importlib.import_module("penstock_worker.accelerated")
    columns = bodies.signature_columns(source.manifest.get("signature"))
    try:
        return replace(model, ask=accelerated.path(path, model, columns))
    except accelerated.Refused as error:
        what = f"{source.path.name} has no path {path}: {error}."
        hint = 'Serve its own call: [serving] accelerate = "off".'
        raise LoadError("PS590", what, hint) from None


def need(module: str, file: str) -> Any:
    """Import a framework."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        lacking = module if error.name in (None, module) else f"{error.name} (for {module})"
        raise LoadError(
            "PS570",
            f"{file} needs {lacking}, which the environment lacks.",
            f"Add {distribution(str(error.name or module))} to [environment] extra.",
        ) from None
    except ImportError as error:
        what = f"{file} needs {module}, which does not start here: {error}."
        raise LoadError("PS570", what, f"Choose another version of {module}.") from error


def distribution(module: str) -> str:
    """Return the package that most likely holds a module."""
    top = module.split(".")[0]
    return DISTRIBUTIONS.get(top, top)


def unreadable(file: str, kind: str, error: Exception) -> LoadError:
    """Say that a file is not what its format says."""
    what = f"{file} cannot be read as {kind}: {type(error).__name__}: {error}".rstrip(".")
    return LoadError("PS572", f"{what}.", "Save the model anew, with the versions of the lock.")


# ---- fitted objects --------------------------------------------------------------------------


def _file(source: Source) -> Model:
    kind = str(source.manifest["format"])
    return estimator(unpickled(source.path, kind), source.path.name, source.stated)


def unpickled(path: Path, kind: str) -> Any:
    """Load an object; nothing is withheld from it, what is loaded here can harm this sandbox."""
    if kind == "skops":
        skops = need("skops.io", path.name)
        read: Callable[[], Any] = lambda: skops.load(  # noqa: E731
            path, trusted=skops.get_untrusted_types(file=path)
        )
    else:
        joblib = rows.optional("joblib")
        read = (lambda: joblib.load(path)) if joblib is not None else (lambda: _pickle(path))
    try:
        return read()
    except ModuleNotFoundError as error:
        raise lacks_module(path.name, str(error.name)) from error
    except AttributeError as error:
        raise lacks_class(path.name, error) from error
    except Exception as error:
        raise unreadable(path.name, kind, error) from error


def _pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301  the model's own file, in its own sandbox


def lacks_module(file: str, module: str) -> LoadError:
    """Say that a module is not there, or was in another version of its package."""
    top = module.split(".")[0]
    found = rows.optional(top) if top != module else None
    if found is not None and hasattr(found, "__version__"):
        package = distribution(top)
        return LoadError(
            "PS574",
            f"{file} was written by another version of {package}: it needs {module}, which "
            f"{package} {found.__version__} lacks.",
            f"Train and serve with the same {package}: pin it in the dependency file.",
        )
    return LoadError(
        "PS571",
        f"{file} needs the module {module}, which neither the environment nor the project has.",
        f"Add {distribution(module)} to [environment] extra, or commit the module.",
    )


def lacks_class(file: str, error: AttributeError) -> LoadError:
    """Say that a class or a function that a pickle names is not there."""
    later = re.search(r"attribute '([^']+)' on <module '([^']+)'", str(error))
    first = re.search(r"module '([^']+)' has no attribute '([^']+)'", str(error))
    if later is not None:  # of pickles of protocol 4 and later
        name, module = later.groups()
    elif first is not None:
        module, name = first.groups()
    else:
        return unreadable(file, "a pickle", error)
    if module == "__main__":
        return LoadError(
            "PS571",
            f"{file} needs {name}, which was defined in the script that trained it.",
            f"Move {name} into a module of the project, such as features.py, and import it.",
        )
    return LoadError(
        "PS571",
        f"{file} needs {name} of the module {module}, which has none.",
        f"Give it back its name, or train again with the {module} of now.",
    )


def estimator(model: Any, name: str, stated: rows.Stated) -> Model:
    """Serve a fitted object in the ways of scikit-learn."""
    module = type(model).__module__.split(".")[0]
    if type(model).__name__ == "Booster" and module in ("xgboost", "lightgbm"):
        boosting = importlib.import_module("penstock_worker.boosting")
        return boosting.booster(model, module, stated)
    if not hasattr(model, "predict"):
        raise LoadError(
            "PS573",
            f"{name} holds a {type(model).__name__} without predict.",
            "Write an adapter, load(folder) and predict(model, frame): [build] predict.",
        )
    names, count = _own_names(model), _own_count(model)
    own_classes: list[Any] | None = rows.plain(attribute(model, "classes_")) or None
    classes = own_classes or stated.classes
    if classes and isinstance(classes[0], list):
        what = f"{name} answers {len(classes)} questions at once; one answer a row is served."
        raise LoadError("PS576", what, "Train one model for each, or write an adapter.")
    made = _categories(model)
    by_name = names is not None or count is None
    pandas = rows.optional("pandas") if by_name or made else None
    apart = type(_last(model)).__name__ in DECIDES_APART
    probable = own_classes is not None and hasattr(model, "predict_proba")

    def ask(asked: Asked) -> rows.Answer:
        given = rows.matrix(asked) if pandas is None else rows.frame(pandas, asked, made)
        if not probable:
            return rows.Answer(column(rows.plain(model.predict(given))), None)
        answer = rows.most_probable(rows.plain(model.predict_proba(given)), classes)
        return answer._replace(prediction=rows.plain(model.predict(given))) if apart else answer

    return Model(
        ask,
        framework=_framework(model),
        feature_names=names,
        n_features=count,
        classes=classes,
        task=stated.task or _task(model),
        fitted=model,
        method="predict_proba" if probable else "predict",
        apart=apart and probable,
        made=bool(made),
    )


def attribute(model: Any, name: str) -> Any:
    """Return an attribute; None where the object has none, or cannot say."""
    try:
        return getattr(model, name, None)
    except Exception:  # noqa: BLE001  a property of foreign code may raise anything
        return None


def real_names(names: Any) -> list[str] | None:
    """Return the names of the columns; None where the framework made them up."""
    found: list[Any] | None = rows.plain(names)
    if not found or all(GENERATED.fullmatch(str(name)) for name in found):
        return None
    return [str(name) for name in found]


def _own_names(model: Any) -> list[str] | None:
    names = attribute(model, "feature_names_in_")
    if names is None:
        names = attribute(model, "feature_names_")  # CatBoost's word
    return real_names(names)


def _own_count(model: Any) -> int | None:
    count = attribute(model, "n_features_in_")
    if not count:  # CatBoost's is 0 after loading from its own file
        count = len(rows.plain(attribute(model, "feature_names_")) or ())
    return int(count) or None


def _categories(model: Any) -> dict[str, rows.Make] | None:
    """Say how columns are made that were pandas categories in training."""
    module = type(model).__module__.split(".")[0]
    if module not in ("xgboost", "lightgbm"):
        return None
    booster = attribute(model, "booster_") if module == "lightgbm" else model.get_booster()
    boosting = importlib.import_module("penstock_worker.boosting")
    return boosting.categories(booster, module)


def column(answers: Any) -> Any:
    """Take the only column of a table of answers."""
    if not isinstance(answers, list):
        return answers
    table = cast("list[Any]", answers)
    if not table or not all(type(row) is list for row in table):
        return table
    if any(len(row) != 1 for row in table):
        raise rows.AnswerError(f"{len(table[0])} values a row, not one")
    return [row[0] for row in table]


def _last(model: Any) -> Any:
    steps = getattr(model, "steps", None)
    return steps[-1][1] if steps else model


def _framework(model: Any) -> str:
    top = type(_last(model)).__module__.split(".")[0]
    if hasattr(sys.modules.get(top), "__version__"):
        return top
    return "sklearn" if "sklearn" in sys.modules else ""


def _task(model: Any) -> str | None:
    if rows.plain(attribute(model, "classes_")):
        return "classification"
    kinds = sys.modules.get("sklearn.base")
    with contextlib.suppress(Exception):  # not every object has the tags of scikit-learn
        if kinds is not None and kinds.is_regressor(model):
            return "regression"
    return "regression" if attribute(model, "_estimator_type") == "regressor" else None


@contextlib.contextmanager
def _skew_noted() -> Generator[list[str]]:
    """Gather, as sentences, what scikit-learn says of objects of another version of it."""
    noted: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield noted
    for one in caught:
        was = getattr(one.message, "original_sklearn_version", None)
        if was is None:
            warnings.showwarning(one.message, one.category, one.filename, one.lineno)
            continue
        now = getattr(one.message, "current_sklearn_version", "another version")
        sentence = f"trained with scikit-learn {was}, served with {now}"
        if sentence not in noted:
            noted.append(sentence)


# ---- adapters --------------------------------------------------------------------------------


def _adapter(source: Source) -> Model:
    path = source.folder / str(source.manifest["predict"])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise LoadError("PS575", f"{path.name} is no Python file.", "Mend [build] predict.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(2, str(path.parent))  # its neighbours, after the project itself
    model = _own_code(path, spec.loader.exec_module, module)
    for name in ("load", "predict"):
        if not callable(getattr(module, name, None)):
            what = f"{path.name} has no function {name}."
            hint = "An adapter has load(folder) and predict(model, frame)."
            raise LoadError("PS575", what, hint)
    model = _own_code(path, module.load, str(source.path))
    pandas = rows.optional("pandas")

    def ask(asked: Asked) -> rows.Answer:
        answers = module.predict(model, rows.frame(pandas, asked))
        return rows.told(rows.plain(answers), source.stated)

    top = type(model).__module__.split(".")[0]
    known = [name for name in (top, "torch", "tensorflow", "xgboost", "lightgbm", "sklearn")
             if hasattr(sys.modules.get(name), "__version__")]  # fmt: skip
    return Model(
        ask,
        framework=known[0] if known else "",
        classes=source.stated.classes,
        task=source.stated.task,
    )


def _own_code(path: Path, call: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return call(argument)
    except ModuleNotFoundError as error:
        raise lacks_module(path.name, str(error.name)) from error
    except Exception as error:
        what = f"{path.name} failed while loading: {type(error).__name__}: {error}".rstrip(".")
        raise LoadError("PS575", f"{what}.", "Try its load(folder) on the folder.") from error


def _boosted(module: str) -> Callable[[Source], Model]:
    def load_(source: Source) -> Model:
        boosting = importlib.import_module("penstock_worker.boosting")
        return boosting.load(module, source)

    return load_


def _mlflow(source: Source) -> Model:
    mlflow_model = importlib.import_module("penstock_worker.mlflow_model")
    return mlflow_model.load(source)


def _onnx(source: Source) -> Model:
    session = importlib.import_module("penstock_worker.onnx_session")
    return session.load(source)


LOADERS: dict[str, Callable[[Source], Model]] = {
    "joblib": _file,
    "skops": _file,
    "adapter": _adapter,
    "mlflow": _mlflow,
    "onnx": _onnx,
    "xgboost": _boosted("xgboost"),
    "lightgbm": _boosted("lightgbm"),
    "catboost": _boosted("catboost"),
}
