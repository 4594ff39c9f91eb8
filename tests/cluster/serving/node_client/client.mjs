// Describes the index, searches it for one of its own speakers, and calibrates predictions by that speaker's neighbors.
// usage: node client.mjs HOST:PORT PROTO SPEAKER [TOKEN]
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const [target, proto, speakerId, token] = process.argv.slice(2);
const definition = protoLoader.loadSync(proto, { keepCase: true, longs: Number, enums: String, oneofs: true });
const { SpeakerIndex } = grpc.loadPackageDefinition(definition).emostream.speakers.v1;
const client = new SpeakerIndex(target, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
if (token) metadata.set('authorization', `Bearer ${token}`);

const call = (method, request) =>
  new Promise((resolve, reject) => {
    const deadline = new Date(Date.now() + 10_000);
    client[method](request, metadata, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });

try {
  const description = await call('Describe', {});
  const { speaker } = await call('Get', { id: speakerId });
  const search = await call('Search', {
    encoder_fingerprint: description.encoder_fingerprint,
    vectors: [speaker.vector],
    k: 3,
    exclude_ids: [speakerId],
  });
  const calibration = await call('Calibrate', {
    speaker_id: speakerId,
    k: 3,
    mode: 'CALIBRATION_MODE_BOTH',
    predictions: [{ dimension: description.label_dimensions[0], values: [0.1, 0.5, 0.9] }],
  });
  console.log(JSON.stringify({ description, search, calibration }));
} catch (error) {
  console.error(`${grpc.status[error.code] ?? 'ERROR'}: ${error.details ?? error}`);
  process.exitCode = 1;
} finally {
  client.close();
}
