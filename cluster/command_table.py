"""The commands, by name: what each is for, and where its options and its function live."""

import dataclasses
from pkgutil import resolve_name
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One sub-command: where its options and its function live (`module:ConfigClass`,
    `module:function`).
    """

    summary: str
    config: str
    run: str
    details: str

    def config_class(self) -> type[Any]:
        """Import and return the options' dataclass."""
        loaded: type[Any] = resolve_name(self.config)
        return loaded


COMMANDS: dict[str, Command] = {
    "import": Command(
        "Turn a table of recordings and a folder of files into tar shards.",
        "shards.importing.config:ImportConfig",
        "cluster.jobs.corpus:run_import",
        "TABLE is CSV or Parquet, one row per utterance: `clip` or `key`; any of `audio`, `video`, "
        "`face` (paths below --root); `transcript`, `speaker`; other columns are kept in each "
        "sample's json. Rows that cannot be read are listed with their reason in "
        "OUT/import-rejected.parquet. Exit status 3: some rows were rejected.",
    ),
    "label": Command(
        "Predict the emotion of every utterance with each labeler, on Ray.",
        "cluster.jobs.label:LabelConfig",
        "cluster.jobs.label:run_label",
        "Writes one small Parquet table per shard. Starts a local Ray, or uses --address, or the "
        "cluster it was submitted to. Interrupted or killed, run the same command again: finished "
        "shards are not opened. A bad sample is a row with its reason. Exit status 0: every shard "
        "was read to its end; 3: finished, but some shards are damaged; 4: unfinished, run it "
        "again.",
    ),
    "select": Command(
        "Keep the utterances on which the teachers agree, and split them by speaker.",
        "shards.selection.rule:SelectConfig",
        "cluster.jobs.corpus:run_select",
        "Reads prediction tables only: seconds, no GPU. Writes selection.parquet, rejected.parquet "
        "(with reasons) and summary.json. With teachers A,B the published distance is KL(A || B). "
        "Exit status 1: nothing was kept; the output says why and what to try.",
    ),
    "pack": Command(
        "Write the kept utterances as speaker-grouped training shards.",
        "shards.packing.job:PackConfig",
        "cluster.jobs.corpus:run_pack",
        "Reads only the kept samples' bytes. A speaker's utterances lie together; a shard holds "
        "one split.",
    ),
    "report": Command(
        "Write one HTML page on what went in, what came out, and how good the labels are.",
        "cluster.pages.report:ReportConfig",
        "cluster.pages.report:run_report",
        "DIR is a selection folder, or a folder that holds one as `selection`. The page needs no "
        "network.",
    ),
    "train": Command(
        "Train a recognizer on packed shards, or adapt an encoder to their sound, on DeepSpeed.",
        "trainers.config:TrainConfig",
        "cluster.training.train:run_train",
        "--print-config explains every option, the recipe's own too. One process by default; "
        "--num-workers uses Ray; torchrun works too. Interrupted, run it again with --resume: the "
        "run goes on exactly where its newest checkpoint is. Exit status 4: stopped by the "
        "storage.",
    ),
    "evaluate": Command(
        "Measure a trained recognizer on a split, over utterances and over speakers.",
        "trainers.evaluation.config:EvaluateConfig",
        "cluster.training.evaluate:run_evaluate",
        "Writes metrics.json, predictions.parquet and evaluation.html. Personalized models see one "
        "speaker at a time, in sets of at most --set-size; --support disjoint and wrong are the "
        "controls. --pldc calibrates by similar training speakers.",
    ),
    "compare": Command(
        "Tabulate evaluated runs: mean over seeds, spread, and paired significance.",
        "cluster.training.compare:CompareConfig",
        "cluster.training.compare:run_compare",
        "--runs takes evaluation folders, separated by spaces or commas. Methods are told apart by "
        "recipe and options, seeds by engine.seed.",
    ),
    "embed": Command(
        "Make the table of speakers: the mean vector of each one's utterances, and the statistics "
        "of their labels.",
        "cluster.jobs.embed:EmbedConfig",
        "cluster.jobs.embed:run_embed",
        "Streams the shards through an encoder on Ray and keeps every utterance's vector, so that "
        "a run with more shards opens only those, and other labels need no encoder. Utterances "
        "without speaker or usable sound are rows with their reason. Exit status 0: every shard "
        "was read to its end; 3: finished, but some shards are damaged; 4: unfinished, run it "
        "again.",
    ),
    "serve": Command(
        "Serve the speaker index over gRPC: nearest speakers, and calibration of a speaker's "
        "predictions.",
        "cluster.serving.config:ServeConfig",
        "cluster.serving.serve:run_serve",
        "Begins from the table --speakers; what clients write is kept in --data and survives a "
        "kill or a power loss. SIGTERM finishes what has begun and ends. Clients: `emostream "
        "lookup`, cluster.serving.client, or any made of protos/speaker_index.proto.",
    ),
    "lookup": Command(
        "Ask a speaker index who sounds most like a recording, a vector, or one of its own "
        "speakers.",
        "cluster.serving.lookup:LookupConfig",
        "cluster.serving.lookup:run_lookup",
        "One of --audio, --vector and --speaker. A token is taken from the environment variable "
        "EMOSTREAM_TOKEN. Exit status 4: the server refused or did not answer.",
    ),
    "demo": Command(
        "Run the whole job on a small synthetic corpus: two commands from a clone to a report.",
        "cluster.demo.demo:DemoConfig",
        "cluster.demo.demo:run_demo",
        "Makes the corpus, trains three small teachers on speakers of their own, labels the rest "
        "on Ray, selects, packs and writes the report. Run again, it goes on where it stopped.",
    ),
    "doctor": Command(
        "Check this machine: packages, Ray, GPU, codecs, storage, memory; each problem with its "
        "remedy.",
        "cluster.doctor.examine:DoctorConfig",
        "cluster.doctor.examine:run_doctor",
        "Exit status 1: at least one problem was found.",
    ),
}
