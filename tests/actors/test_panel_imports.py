import subprocess
import sys


def test_the_panel_needs_neither_ray_nor_codecs() -> None:
    """A GPU machine with torch and transformers alone can load a panel and run its benchmark."""
    names = ("ray", "av", "cv2", "deepspeed", "faiss", "opensmile")
    code = f"import sys, tests.benchmarks.panel_gpu; print([name for name in {names} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
