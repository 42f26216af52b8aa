"""Names of packages that are easily confused: by module, by conda, by a letter.

Small tables of the most used ones, written by hand. Nothing is decided by them but words in a
sentence, and which name of the index stands for a name of conda.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from packaging.utils import canonicalize_name

DISTRIBUTIONS: Mapping[str, str] = {
    "Crypto": "pycryptodome",
    "IPython": "ipython",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyOpenSSL",
    "PIL": "Pillow",
    "absl": "absl-py",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "category_encoders": "category-encoders",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.storage": "google-cloud-storage",
    "google.protobuf": "protobuf",
    "hydra": "hydra-core",
    "igraph": "python-igraph",
    "imblearn": "imbalanced-learn",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "lightning": "lightning",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "nacl": "PyNaCl",
    "pkg_resources": "setuptools",
    "psycopg2": "psycopg2-binary",
    "pymysql": "PyMySQL",
    "pythonjsonlogger": "python-json-logger",
    "pytorch_lightning": "pytorch-lightning",
    "requests_toolbelt": "requests-toolbelt",
    "ruamel": "ruamel.yaml",
    "sentence_transformers": "sentence-transformers",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "skopt": "scikit-optimize",
    "slugify": "python-slugify",
    "socks": "PySocks",
    "sksurv": "scikit-survival",
    "tabnet": "pytorch-tabnet",
    "tables": "tables",
    "talib": "TA-Lib",
    "umap": "umap-learn",
    "usb": "pyusb",
    "websocket": "websocket-client",
    "xdist": "pytest-xdist",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}
"""Modules whose package has another name."""

BRINGS: Mapping[str, tuple[str, ...]] = {
    "catboost": ("matplotlib", "numpy", "pandas", "plotly", "scipy", "six"),
    "dask": ("cloudpickle", "fsspec", "pyyaml"),
    "fairlearn": ("numpy", "pandas", "scikit-learn", "scipy"),
    "hydra-core": ("omegaconf", "pyyaml"),
    "imbalanced-learn": ("joblib", "numpy", "scikit-learn", "scipy"),
    "lightgbm": ("numpy", "scipy"),
    "lightning": ("numpy", "pyyaml", "torch", "tqdm"),
    "matplotlib": ("numpy", "pillow", "python-dateutil"),
    "mlflow": (
        *("cloudpickle", "flask", "gitpython", "matplotlib", "numpy", "pandas", "protobuf"),
        *("pyarrow", "pyyaml", "requests", "scikit-learn", "scipy", "sqlalchemy"),
    ),
    "optuna": ("numpy", "pyyaml", "sqlalchemy", "tqdm"),
    "pandas": ("numpy", "python-dateutil"),
    "pytorch-lightning": ("numpy", "pyyaml", "torch", "tqdm"),
    "scikit-image": ("numpy", "pillow", "scipy"),
    "scikit-learn": ("joblib", "numpy", "scipy", "threadpoolctl"),
    "scipy": ("numpy",),
    "seaborn": ("matplotlib", "numpy", "pandas"),
    "sentence-transformers": ("numpy", "scikit-learn", "scipy", "torch", "tqdm", "transformers"),
    "shap": ("numpy", "pandas", "scikit-learn", "scipy", "tqdm"),
    "skops": ("numpy", "scikit-learn"),
    "statsmodels": ("numpy", "pandas", "patsy", "scipy"),
    "tensorflow": ("h5py", "keras", "numpy", "protobuf", "requests", "six"),
    "torchvision": ("numpy", "pillow", "torch"),
    "transformers": ("numpy", "pyyaml", "regex", "requests", "tokenizers", "tqdm"),
    "xgboost": ("numpy", "scipy"),
}
"""What a package installs along with itself, as far as projects import it without naming it."""

CONDA: Mapping[str, str] = {
    "python-graphviz": "graphviz",
    "dask-core": "dask",
    "faiss": "faiss-cpu",
    "msgpack-python": "msgpack",
    "matplotlib-base": "matplotlib",
    "ipython_genutils": "ipython-genutils",
    "pyqt": "PyQt5",
    "pytables": "tables",
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "py-lightgbm": "lightgbm",
    "py-opencv": "opencv-python-headless",
    "py-xgboost": "xgboost",
    "py-xgboost-cpu": "xgboost",
    "py-xgboost-gpu": "xgboost",
    "opencv": "opencv-python-headless",
    "ruamel_yaml": "ruamel.yaml",
    "seaborn-base": "seaborn",
    "tensorflow-base": "tensorflow",
    "tensorflow-cpu": "tensorflow",
    "tensorflow-gpu": "tensorflow",
    "typing_extensions": "typing-extensions",
    "python-kaleido": "kaleido",
    "xgboost-cpu": "xgboost",
    "xgboost-gpu": "xgboost",
    "zeromq-python": "pyzmq",
}
"""Packages of conda that the index knows under another name."""

_NOT_PYTHON = frozenset(
    (
        *("_openmp_mutex", "_tflow_select", "aom", "binutils", "blas", "blosc", "brotli"),
        *("brotli-bin", "bzip2", "c-ares", "ca-certificates", "cairo", "charls", "cmake"),
        *("compilers", "cpuonly", "cuda", "cuda-toolkit", "cudatoolkit", "cudnn", "curl"),
        *("cxx-compiler", "c-compiler", "dbus", "expat", "ffmpeg", "fontconfig", "freetype"),
        *("fribidi", "gcc", "gettext", "gfortran", "gflags", "giflib", "git", "glib", "glog"),
        *("gmp", "gnutls", "graphite2", "graphviz", "gsl", "gst-plugins-base", "gstreamer"),
        *("gxx", "harfbuzz", "hdf5", "icc_rt", "icu", "intel-openmp", "jpeg", "jq", "jxrlib"),
        *("keyutils", "krb5", "lame", "lcms2", "ld_impl_linux-64", "lerc", "llvm-openmp"),
        *("llvmlite-libs", "lz4-c", "lzo", "m2w64-gcc-libs", "magma-cuda", "make", "mkl"),
        *("mkl-devel", "mkl-service", "mkl_fft", "mkl_random", "mpc", "mpfr", "msys2-conda-epoch"),
        *("mysql", "nccl", "ncurses", "nettle", "ninja", "nodejs", "nomkl", "nspr", "nss"),
        *("numpy-base", "openblas", "openh264", "openjdk", "openjpeg", "openmpi", "openssl"),
        *("orc", "pandoc", "pango", "pcre", "pcre2", "pip", "pixman", "pkg-config", "poppler"),
        *("python_abi", "pytorch-cuda", "pytorch-mutex", "qhull", "qt", "qt-main", "r", "r-base"),
        *("re2", "readline", "setuptools", "snappy", "spdlog", "sqlite", "tbb", "tbb4py", "tk"),
        *("tzdata", "ucrt", "unixodbc", "utf8proc", "vc", "vc14_runtime", "vs2015_runtime"),
        *("wheel", "xz", "yaml", "yaml-cpp", "zeromq", "zfp", "zlib", "zstd"),
    )
)
_NOT_PYTHON_BEGINNINGS = (
    *("lib", "_lib", "r-", "xorg-", "aws-c-", "aws-crt", "aws-sdk", "cuda-", "gcc_", "gxx_"),
    *("gfortran_", "font-ttf", "fonts-conda", "m2w64-", "binutils_", "kernel-headers", "sysroot_"),
)
_PYTHON_THOUGH = frozenset(
    ("librosa", "libsvm-official", "libtmux", "libcst", "liblinear-official")
)

ALIASES: Mapping[str, str] = {
    "pil": "pillow",
    "sklearn": "scikit-learn",
}
"""Names that people write and that are no packages of their own on the index."""

LEFT_OUT: Mapping[str, str] = {
    "pkg-resources": "belongs to setuptools (an old fault of pip freeze wrote it)",
    "pkg-resources-pkg-resources": "belongs to setuptools",
}
"""Names that stand in real files and name nothing that could be installed."""

_MOST_USED = frozenset(
    (
        *("accelerate", "aiohttp", "altair", "beautifulsoup4", "bokeh", "boto3", "catboost"),
        *("category-encoders", "cloudpickle", "cvxpy", "cython", "dask", "datasets", "dill"),
        *("django", "duckdb", "evaluate", "fairlearn", "fastapi", "featuretools", "flask"),
        *("fsspec", "gensim", "geopandas", "gitpython", "gradio", "h5py", "huggingface-hub"),
        *("hydra-core", "hyperopt", "imbalanced-learn", "imbalanced-ensemble", "ipykernel"),
        *("ipython", "jinja2", "joblib", "jsonschema", "jupyter", "jupyterlab", "keras"),
        *("kedro", "langchain", "lifelines", "lightgbm", "lightning", "loguru", "matplotlib"),
        *("mlflow", "mlflow-skinny", "mlxtend", "networkx", "nltk", "notebook", "numba"),
        *("numpy", "omegaconf", "onnx", "onnxruntime", "openai", "opencv-python"),
        *("opencv-python-headless", "openpyxl", "optuna", "pandas", "patsy", "pillow", "plotly"),
        *("polars", "prefect", "prophet", "protobuf", "psycopg2", "psycopg2-binary", "pyarrow"),
        *("pydantic", "pymongo", "pymysql", "pyod", "pyspark", "pytest", "python-dateutil"),
        *("python-dotenv", "pytorch-lightning", "pytz", "pyyaml", "ray", "requests", "river"),
        *("scikit-image", "scikit-learn", "scikit-optimize", "scikit-survival", "scipy"),
        *("seaborn", "sentence-transformers", "sentencepiece", "shap", "skl2onnx", "skops"),
        *("spacy", "sqlalchemy", "statsmodels", "streamlit", "tensorboard", "tensorflow"),
        *("textblob", "threadpoolctl", "tokenizers", "torch", "torchaudio", "torchvision"),
        *("tqdm", "transformers", "typer", "umap-learn", "uvicorn", "wandb", "xgboost"),
        *("yellowbrick", "pycaret", "dvc", "great-expectations", "rich", "click", "tabulate"),
    )
)
_NEAR_AND_REAL = frozenset(("dvc3", "flask2", "rays", "rich2", "torchx", "keras2", "onnx2"))


def distribution_of(module: str) -> str:
    """Return the package that a module comes from, in the index's spelling.

    Examples
    --------
    >>> distribution_of("sklearn.linear_model"), distribution_of("polars")
    ('scikit-learn', 'polars')
    """
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (found := DISTRIBUTIONS.get(".".join(parts[:length]))) is not None:
            return found
    return parts[0]


def is_python(conda_name: str) -> bool:
    """Whether a package of conda is one of Python's, and not a library, compiler or tool.

    Examples
    --------
    >>> is_python("pandas"), is_python("libgcc-ng"), is_python("cudatoolkit")
    (True, False, False)
    """
    name = conda_name.lower()
    if name in _PYTHON_THOUGH:
        return True
    return name not in _NOT_PYTHON and not name.startswith(_NOT_PYTHON_BEGINNINGS)


def meant(name: str) -> str | None:
    """Return the much used package from which a name is one letter away; None if it is fine.

    Examples
    --------
    >>> meant("panda"), meant("pandas"), meant("numyp"), meant("my-own")
    ('pandas', None, 'numpy', None)
    """
    own = canonicalize_name(name)
    if len(own) < 4 or own in _MOST_USED or own in _NEAR_AND_REAL:
        return None
    near = sorted(known for known in _MOST_USED if len(known) > 4 and _one_letter(own, known))
    return near[0] if near else None


def is_standard(module: str) -> bool:
    """Whether a module comes with Python itself."""
    return module.split(".")[0] in sys.stdlib_module_names


def _one_letter(a: str, b: str) -> bool:
    """Whether one letter was added, lost, changed, or swapped with its neighbour."""
    if abs(len(a) - len(b)) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if start is None:
        return len(a) != len(b)
    one, two = a[start:], b[start:]
    swapped = len(one) > 1 and len(two) > 1 and one[:2] == two[1::-1] and one[2:] == two[2:]
    return swapped or one[1:] == two[1:] or one[1:] == two or one == two[1:]
