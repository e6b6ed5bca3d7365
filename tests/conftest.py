"""One environment for all tests: 8 virtual CPU devices, strict jax."""

import os
import pathlib
import tempfile

# Before jax is imported anywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
# Threads for 8 devices' collectives of more than one program at a time: with as
# many threads as devices, two programs under way can wait for one another.
os.environ.setdefault("NPROC", "32")
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
  flags = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8"
  os.environ["XLA_FLAGS"] = flags.strip()

import jax  # noqa: E402
import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]

# Warnings are errors, but for these.
_ALLOWED = (
  # Buffers of 8 virtual devices cannot always be reused; correct, only slower.
  "ignore:Some donated buffers were not usable",
  # Third parties' own calls, outside our hands.
  "ignore::DeprecationWarning:tensorflow_datasets.*",
  "ignore::DeprecationWarning:orbax.*",
  "ignore::DeprecationWarning:etils.*",
  "ignore::DeprecationWarning:textblob.*",
  # Worker processes of grain are forked beside jax's threads; they use numpy.
  "ignore:os.fork\\(\\) was called",
)


def pytest_configure(config):
  config.addinivalue_line("filterwarnings", "error")
  for line in _ALLOWED:
    config.addinivalue_line("filterwarnings", line)
  jax.config.update("jax_numpy_rank_promotion", "raise")
  jax.config.update("jax_compilation_cache_dir", str(_compile_cache()))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _compile_cache() -> pathlib.Path:
  """.cache of the repository, or a temporary folder if it is read-only."""
  folder = ROOT / ".cache" / "xla"
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:
    return pathlib.Path(tempfile.mkdtemp(prefix="xpo_xla_"))
  return folder


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
  """The repository."""
  return ROOT


@pytest.fixture
def xpo(capsys, monkeypatch, root):
  """Runs `xpo ARGS` in this process at the repository's root.

  Returns (exit code, the text of stdout, the lines of stderr).
  """
  from xpo_jax import cli

  monkeypatch.chdir(root)
  monkeypatch.delenv("XPO_TRACEBACK", raising=False)

  def run(*args: str) -> tuple[int, str, list[str]]:
    code = cli.main(list(args))
    out, err = capsys.readouterr()
    return code, out, err.splitlines()

  return run
