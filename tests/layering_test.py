"""The house's shape, read from the source: one-way imports, sizes, no code
that runs data. Packages count as one part; a lazy import counts as an import.
"""

import ast
import functools
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "xpo_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# part -> the parts that it may import. Parts that are not here are the upper
# floors (config, train, pipeline, cli, ...): nothing in the table may import
# them, and among themselves they may not go in circles.
BELOW = {
  "errors": "",
  "fields": "",
  "types": "",
  "fetch": "errors",
  "ops": "types errors",
  "lists": "ops types errors",
  "returns": "ops types errors",
  "methods": "ops lists returns types errors",
  "models": "types errors fetch",
  "data": "types errors fetch",
  "rollout": "models ops types errors",
  "judges": "data lists models rollout types errors",
  "evals": "types errors",
  "metrics": "errors",
  "progress": "errors",
  "watchdog": "errors",
  "parallel": "types errors watchdog",
  "optimizer": "errors",
  "merging": "",
  "merged": "merging types",
  "deltas": "merged merging",
  "penalties": "types",
  "sealing": "errors fetch",
  "stored": "sealing metrics types errors",
  "saver": "sealing stored errors",
  "checkpoint": "sealing stored saver types errors",
  "verify": "sealing progress errors",
  "trio": "methods models types ops errors",
  "step": "trio methods models types ops errors",
}


@functools.cache
def _tree(file: pathlib.Path) -> ast.Module:
  return ast.parse(file.read_text(encoding="utf-8"), str(file))


def _name(file: pathlib.Path) -> str:
  """xpo_jax/methods/dpo.py -> methods.dpo; methods/__init__.py -> methods."""
  parts = file.relative_to(PACKAGE).with_suffix("").parts
  return ".".join(p for p in parts if p != "__init__")


MODULES = {_name(file): file for file in FILES}


def _imports(file: pathlib.Path) -> set[str]:
  """Modules of ours that a file imports, anywhere in it."""
  found = set()
  for node in ast.walk(_tree(file)):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{file}:{node.lineno}: relative import"
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    for name in names:
      if name.startswith("xpo_jax."):
        name = name.removeprefix("xpo_jax.")
        found.add(name if name in MODULES else name.rpartition(".")[0])
  return found - {"", _name(file)}


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_imports_go_one_way(file):
  part = _name(file).split(".")[0]
  if part not in BELOW:
    return
  for name in _imports(file):
    other = name.split(".")[0]
    assert other == part or other in BELOW[part].split(), (
      f"{_name(file)} imports {name}; {part} may import "
      f"{BELOW[part] or 'nothing of ours'}"
    )


def test_the_table_is_one_way_itself():
  done: set[str] = set()
  for part in BELOW:  # written bottom up
    assert set(BELOW[part].split()) <= done, part
    done.add(part)


def test_no_circles():
  graph = {name: _imports(file) for name, file in MODULES.items() if name}
  state: dict[str, str] = {}

  def visit(name, path):
    assert state.get(name) != "open", " -> ".join([*path, name])
    if name in state:
      return
    state[name] = "open"
    for other in sorted(graph.get(name, ())):
      visit(other, [*path, name])
    state[name] = "done"

  for name in graph:
    visit(name, [])


def test_methods_and_data_stay_strangers():
  for name, file in MODULES.items():
    part = name.split(".")[0]
    others = {i.split(".")[0] for i in _imports(file)}
    assert not (part == "methods" and others & {"models", "data"}), name
    assert not (part == "data" and others & {"methods", "models"}), name


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_sizes(file):
  assert file.stem not in ("utils", "util", "helpers", "misc"), file
  lines = len(file.read_text(encoding="utf-8").splitlines())
  assert lines <= 350, f"{file.name} has {lines} lines; split it by subject"
  for node in ast.walk(_tree(file)):
    if isinstance(node, ast.FunctionDef):
      length = _body_lines(node)
      assert length <= 60, f"{file.name}: {node.name} has {length} lines"


def _body_lines(node: ast.FunctionDef) -> int:
  """Lines of a function without its signature and docstring."""
  body = node.body[1:] if ast.get_docstring(node) else node.body
  return body[-1].end_lineno - body[0].lineno + 1 if body else 0


BASES = {
  "nn.Module",
  "NamedTuple",
  "typing.NamedTuple",
  "Protocol",
  "enum.Enum",
  "enum.IntEnum",
  "Exception",
  "BaseException",  # what `except Exception` of a user must not swallow
  "tfds.core.GeneratorBasedBuilder",  # TFDS knows builders as subclasses only
}


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_no_inheritance(file):
  for node in ast.walk(_tree(file)):
    if isinstance(node, ast.ClassDef):
      bases = {ast.unparse(base) for base in node.bases}
      assert bases <= BASES, f"{file.name}: class {node.name}({bases})"


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_public_functions_are_documented(file):
  tree = _tree(file)
  assert file.name == "__init__.py" or ast.get_docstring(tree), file
  for node in tree.body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
      assert ast.get_docstring(node) or _body_lines(node) <= 5, (
        f"{file.name}: {node.name} has no docstring"
      )


# Bytes are data: nothing that runs, unpickles or shells what it reads.
MODULES_REFUSED = {
  "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve",
  "yaml", "torch", "runpy", "code",
}  # fmt: skip
CALLS_REFUSED = {
  "eval", "exec", "compile", "__import__", "os.system", "os.popen",
  "pickle.load", "pickle.loads", "torch.load", "yaml.load", "jsonpickle.decode",
}  # fmt: skip
KEYWORDS_REFUSED = {"shell", "trust_remote_code", "allow_pickle"}
# The operator's own config file and reward functions, and the files of our
# methods folder.
LOADERS = {
  "exec_module": ("flags",),
  "import_module": ("methods.registry", "judge_config"),
}


def violations(tree: ast.AST, module: str) -> list[str]:
  """What the scan finds in a file."""
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import | ast.ImportFrom):
      names = [alias.name for alias in node.names]
      names = [node.module or ""] if hasattr(node, "module") else names
      found += [n for n in names if n.split(".")[0] in MODULES_REFUSED]
    if isinstance(node, ast.Call):
      called = ast.unparse(node.func)
      if called in CALLS_REFUSED:
        found.append(called)
      last = called.rpartition(".")[2]
      if module not in LOADERS.get(last, (module,)):
        found.append(last)
      for keyword in node.keywords:
        constant = getattr(keyword.value, "value", None)
        if keyword.arg in KEYWORDS_REFUSED and constant is not False:
          found.append(keyword.arg)
  return found


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_bytes_are_data(file):
  assert violations(_tree(file), _name(file)) == []


@pytest.mark.parametrize(
  "source, found",
  [
    ("import pickle", ["pickle"]),
    ("from torch import nn", ["torch"]),
    ("eval('1')", ["eval"]),
    ("np.load(f, allow_pickle=True)", ["allow_pickle"]),
    ("subprocess.run(x, shell=True)", ["shell"]),
    ("subprocess.run(x, shell=flag)", ["shell"]),
    ("spec.loader.exec_module(m)", ["exec_module"]),
    ("importlib.import_module(m)", ["import_module"]),
    ("re.compile('x'); model.eval(); subprocess.run(x, shell=False)", []),
  ],
)
def test_the_scan_sees(source, found):
  assert violations(ast.parse(source), "train") == found
