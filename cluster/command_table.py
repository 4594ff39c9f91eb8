"""The commands, by name: what each is for, and where its options and its function live."""

import dataclasses
from pkgutil import resolve_name
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One command: what it is for, and where its options and its function live.

    `config` is written `module:ConfigClass`, `run` is written `module:function`.
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
        "TABLE is CSV, TSV, JSON lines or Parquet, with one row per utterance. Its columns: `clip` "
        "or `key`; any of `audio`, `video`, `face` (paths below --root); `transcript`, `speaker`; "
        "other columns are kept in each sample's json. OUT/import-rejected.parquet lists the rows "
        "that could not be read, with the reason for each. Exit status 3: some rows were rejected.",
    ),
    "label": Command(
        "Predict the emotion of every utterance with each labeler, on Ray.",
        "cluster.jobs.label:LabelConfig",
        "cluster.jobs.label:run_label",
        "Writes one small Parquet table per shard. Runs on the Ray cluster of --address, on the "
        "cluster it was submitted to, or on a local Ray that it starts. After an interruption, run "
        "the same command again: it does not open finished shards. A bad sample becomes a row that "
        "holds the reason. Exit status 0: every shard was read to its end; 3: finished, but some "
        "shards are damaged; 4: unfinished, run it again.",
    ),
    "select": Command(
        "Keep the utterances on which the teachers agree, and split them by speaker.",
        "shards.selection.rule:SelectConfig",
        "cluster.jobs.corpus:run_select",
        "Reads prediction tables only, so it takes seconds and needs no GPU. Writes "
        "selection.parquet, rejected.parquet (with reasons) and summary.json. With --teachers A,B "
        "the published distance is KL(A || B). Exit status 1: nothing was kept; the output says "
        "why and what to try.",
    ),
    "pack": Command(
        "Write the kept utterances as speaker-grouped training shards.",
        "shards.packing.job:PackConfig",
        "cluster.jobs.corpus:run_pack",
        "Reads only the bytes of kept samples. The utterances of a speaker lie together; a shard "
        "holds one split.",
    ),
    "report": Command(
        "Write one HTML page: what went in, what came out, and how good the labels are.",
        "cluster.pages.report:ReportConfig",
        "cluster.pages.report:run_report",
        "DIR is a folder that `emostream select` wrote, or a folder that holds one as `selection`. "
        "The page needs no network.",
    ),
    "train": Command(
        "Train a recognizer on packed shards, or adapt an encoder to their sound, on DeepSpeed.",
        "trainers.config:TrainConfig",
        "cluster.training.train:run_train",
        "--print-config explains every option, those of the recipe included. Trains in one process "
        "by default; --num-workers starts several with Ray; torchrun works too. After an "
        "interruption, run it again with --resume: it goes on exactly from its newest checkpoint. "
        "Exit status 4: unfinished, for example because the disk is full.",
    ),
    "evaluate": Command(
        "Measure a trained recognizer on a split, over utterances and over speakers.",
        "trainers.evaluation.config:EvaluateConfig",
        "cluster.training.evaluate:run_evaluate",
        "Writes metrics.json, predictions.parquet and evaluation.html. Personalized models see one "
        "speaker at a time, in sets of at most --set-size; --support disjoint and wrong are the "
        "controls. --pldc calibrates by similar training speakers.",
    ),
    "predict": Command(
        "Recognize emotion in recordings: files, folders, a table or shards, labeled or not.",
        "actors.predicting.config:PredictConfig",
        "cluster.jobs.predict:run_predict",
        "Shards are recognized on Ray, each exactly once: run an interrupted command again. "
        "Writes one row for each recording, or for each window of --window seconds: key, speaker, "
        "start, end, the likeliest class as `label`, and `score_NAME` for each class or value. A "
        "file that cannot be used becomes a row that holds the reason. Exit status 3: there are "
        "such rows, or damaged shards; 4: unfinished, run it again.",
    ),
    "convert": Command(
        "Make a checkpoint of safetensors from one of pickled weights, and execute nothing in it.",
        "trainers.preparation.converting.config:ConvertConfig",
        "cluster.training.convert:run_convert",
        "FILE_OR_FOLDER is pytorch_model.bin or a file like it, or its folder, with the "
        "config.json of transformers beside it. A file that asks for anything but tensors and "
        "plain values is refused, by the name of what it asks for. All weights keep their names "
        "and their digits. Files of fairseq (data2vec 2.0, emotion2vec) become encoders, and those "
        "of FunASR (emotion2vec+) audio labelers of a panel.",
    ),
    "push": Command(
        "Publish an exported model on the Hugging Face Hub, with its card.",
        "cluster.training.push:PushConfig",
        "cluster.training.push:run_push",
        "RUN is the folder of a run, or RUN/best; REPO is OWNER/NAME. Only the weights, the "
        "configuration and the card are uploaded, never the checkpoints of the training. The card "
        "must state a license. The token is that of `hf auth login`, or of the environment "
        "variable HF_TOKEN. Exit status 4: the Hub refused or did not answer.",
    ),
    "compare": Command(
        "Tabulate evaluated runs: mean over seeds, spread, and paired significance.",
        "cluster.comparing.compare:CompareConfig",
        "cluster.comparing.compare:run_compare",
        "--runs takes evaluation folders, separated by spaces. Runs with the same recipe "
        "and options are one method; engine.seed tells its runs apart.",
    ),
    "embed": Command(
        "Make the table of speakers: the mean vector of each speaker's utterances, and the "
        "statistics of their labels.",
        "cluster.jobs.embed:EmbedConfig",
        "cluster.jobs.embed:run_embed",
        "Streams the shards through an encoder on Ray and keeps the vector of every utterance: a "
        "later run with more shards opens only the new ones, and a run with other labels needs no "
        "encoder. An utterance without a speaker or usable sound becomes a row that holds the "
        "reason. Exit status 0: every shard was read to its end; 3: finished, but some shards are "
        "damaged; 4: unfinished, run it again.",
    ),
    "features": Command(
        "Keep what a frozen encoder makes of every utterance: the frames of chosen layers.",
        "cluster.jobs.features:FeaturesConfig",
        "cluster.jobs.features:run_features",
        "Streams the shards through an encoder on Ray and writes one safetensors file per shard: "
        "float16 frames [frames, layers, width] for each utterance, which `emostream probe` reads. "
        "A later run opens only shards that are new or have changed. An utterance without usable "
        "sound is listed with the reason. Exit status 0: every shard was read to its end; 3: "
        "finished, but some shards are damaged; 4: unfinished, run it again.",
    ),
    "probe": Command(
        "Train small models on frozen features, fold by fold, and measure what the features hold.",
        "trainers.probing.config:ProbeConfig",
        "cluster.probing.probe:run_probe",
        "Give one of --encoder, --features and --predictions. Writes probe.json, "
        "predictions.parquet, rejected.parquet and probe.html: weighted and unweighted accuracy, "
        "weighted F1, macro-F1 and F1 bias, as the mean of the folds and pooled, with intervals. "
        "The same options and seed give the same figures. Exit status 4: the features are "
        "unfinished, run it again.",
    ),
    "serve": Command(
        "Serve the speaker index over gRPC: nearest speakers, and calibration of a speaker's "
        "predictions.",
        "cluster.serving.config:ServeConfig",
        "cluster.serving.serve:run_serve",
        "Begins with the table --speakers and keeps what clients write in --data, where it "
        "survives a kill or a power loss. On SIGTERM it answers the requests that have begun, then "
        "ends. Clients: `emostream lookup`, cluster.serving.client, or any client generated from "
        "protos/speaker_index.proto.",
    ),
    "lookup": Command(
        "Ask a speaker index who sounds most like a recording, a vector, or one of its own "
        "speakers.",
        "cluster.serving.lookup:LookupConfig",
        "cluster.serving.lookup:run_lookup",
        "Give one of --audio, --vector and --speaker. A token is read from the environment "
        "variable EMOSTREAM_TOKEN. Exit status 4: the server refused or did not answer.",
    ),
    "demo": Command(
        "Run the whole job on a small synthetic corpus: two commands from a clone to a report.",
        "cluster.demo.demo:DemoConfig",
        "cluster.demo.demo:run_demo",
        "Makes the corpus, trains three small teachers on speakers of their own, labels the other "
        "speakers on Ray, selects, packs and writes the report. When it is run again, it goes on "
        "where it stopped.",
    ),
    "doctor": Command(
        "Check this machine: packages, Ray, GPU, codecs, storage, memory; name a remedy for each "
        "problem.",
        "cluster.doctor.examine:DoctorConfig",
        "cluster.doctor.examine:run_doctor",
        "Exit status 1: at least one problem was found.",
    ),
}
