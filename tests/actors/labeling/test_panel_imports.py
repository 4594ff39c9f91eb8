import subprocess
import sys
from pathlib import Path

from tests import ROOT

ABSENT = ("ray", "av", "soundfile", "cv2", "deepspeed", "faiss", "opensmile")
# A module that is None in sys.modules counts as not installed, also to libraries that look for a
# module before they import it.
LABEL_WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))
import tests.benchmarks.labeling.panel_gpu
from pathlib import Path
from tests.actors.inference.tiny_checkpoints import write_audio
from tests.benchmarks.labeling.panel_runs import label_all, load_panel, make_utterances
panel = load_panel(write_audio(Path(sys.argv[1]), "hubert"), "float32", num_threads=1)
print(label_all(panel, make_utterances(2)).shape)
"""


def test_the_panel_needs_neither_ray_nor_codecs(tmp_path: Path) -> None:
    """A machine with torch and transformers alone can label sound and run the benchmark."""
    command = [sys.executable, "-c", LABEL_WITHOUT, str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert found.stdout.strip() == "(2, 7)", found.stderr
