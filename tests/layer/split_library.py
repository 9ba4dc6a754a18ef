"""Which package of OE has which module, and what comes with it.

OE splits Python's standard library into packages. LmP v97 and LmP main split it a little
differently; where they differ, this table has what is the harder for us: a module in the package
that is not always there, a dependency only if both have it. Of the libraries' recipes it has only
what the agent's imports need (python3-docker, say, also brings python3-misc, six and
websocket-client): nothing may come to depend on the rest.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """Its modules, of the C ones too, and the packages that its recipe brings."""

    modules: frozenset[str]
    depends: frozenset[str]


def _package(modules: str, depends: str = "") -> Package:
    return Package(
        frozenset(modules.split()),
        frozenset(f"python3-{name}" for name in ("core", *depends.split())),
    )


PACKAGES = {
    "python3-core": _package(
        "__future__ _collections_abc _colorize _compression _markupbase _opcode_metadata"
        " _py_warnings _sitebuiltins _weakrefset abc annotationlib argparse ast bisect bz2 code"
        " codecs codeop collections configparser contextlib copy copyreg csv dataclasses dis"
        " encodings enum fnmatch functools genericpath getopt gettext heapq importlib inspect io"
        " ipaddress keyword linecache locale lzma ntpath opcode operator optparse os pathlib"
        " pkgutil platform posixpath re reprlib rlcompleter runpy selectors shutil signal site"
        " sre_compile sre_constants sre_parse stat stringprep struct subprocess sysconfig textwrap"
        " threading token tokenize traceback types typing urllib warnings weakref zipimport"
        " _bisect _bz2 _csv _heapq _lzma _opcode _posixsubprocess _struct _typing array binascii"
        " grp math readline select unicodedata zlib"
        # Built into every Python.
        " atexit errno itertools marshal posix pwd sys time",
        "compression",
    ),
    "python3-asyncio": _package(
        "asyncio concurrent _asyncio", "io logging netclient numbers stringold"
    ),
    "python3-codecs": _package("_multibytecodec"),
    "python3-compression": _package("compression gzip tarfile zipfile"),
    "python3-crypt": _package(
        "hashlib _blake2 _hashlib _md5 _sha1 _sha2 _sha256 _sha3 _sha512",
    ),
    "python3-ctypes": _package("ctypes _ctypes", "io math"),
    "python3-datetime": _package("datetime calendar _datetime _pydatetime _strptime"),
    "python3-difflib": _package("difflib"),
    "python3-email": _package("email imaplib", "datetime io math mime netclient stringold"),
    "python3-fcntl": _package("fcntl"),
    "python3-html": _package("html"),
    "python3-io": _package("_pyio _socket _ssl socket ssl tempfile termios", "math netclient"),
    "python3-json": _package("json _json"),
    "python3-logging": _package("logging", "io netserver pickle stringold threading"),
    "python3-math": _package("random _random cmath"),
    "python3-mime": _package("quopri"),
    "python3-misc": _package("graphlib sched timeit trace"),
    "python3-mmap": _package("mmap"),
    "python3-multiprocessing": _package(
        "multiprocessing _multiprocessing _posixshmem",
        "crypt ctypes io math mmap netclient pickle threading",
    ),
    "python3-netclient": _package(
        "base64 ftplib hmac http mimetypes poplib secrets smtplib uuid _uuid",
        "crypt datetime email io math mime stringold",
    ),
    "python3-netserver": _package("socketserver", "io"),
    "python3-numbers": _package(
        "contextvars decimal fractions numbers _contextvars _decimal _pydecimal"
    ),
    "python3-pickle": _package("pickle pickletools shelve _compat_pickle _pickle"),
    "python3-pprint": _package("pprint"),
    "python3-resource": _package("resource"),
    "python3-shell": _package("cmd glob shlex", "stringold"),
    "python3-sqlite3": _package("sqlite3 _sqlite3", "datetime"),
    "python3-stringold": _package("string"),
    "python3-syslog": _package("syslog"),
    "python3-threading": _package("queue _queue _threading_local"),
    "python3-tomllib": _package("tomllib"),
    "python3-unixadmin": _package("getpass", "io"),
    "python3-xml": _package("xml pyexpat _elementtree"),
    "python3-zoneinfo": _package("zoneinfo _zoneinfo", "datetime"),
    "python3-certifi": _package("certifi"),
    "python3-chardet": _package("chardet"),
    "python3-docker": _package("docker", "packaging requests"),
    "python3-idna": _package("idna"),
    "python3-packaging": _package("packaging"),
    "python3-pyyaml": _package("yaml _yaml", "datetime netclient"),
    "python3-requests": _package(
        "requests", "certifi chardet compression email idna json netserver urllib3"
    ),
    "python3-sdnotify": _package("sdnotify"),
    "python3-systemd": _package("systemd", "logging syslog"),
    "python3-urllib3": _package("urllib3", "certifi email idna json logging netclient threading"),
}
"""By name. Sources: OE-Core's python3-manifest.json, and the recipes of the libraries."""


def closure(names: frozenset[str]) -> frozenset[str]:
    """Return ``names`` and all that comes with them; KeyError for a name that is no package."""
    found = names
    while (more := found.union(*(PACKAGES[name].depends for name in found))) != found:
        found = more
    return found


def package_of(module: str) -> str:
    """Return which package has the top-level ``module``; LookupError if the table does not know."""
    for name, package in PACKAGES.items():
        if module in package.modules:
            return name
    raise LookupError(f"add the module {module!r} to the table of tests/layer/split_library.py")
