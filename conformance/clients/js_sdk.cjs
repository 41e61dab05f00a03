// @aws-sdk/client-s3, lib-storage and s3-request-presigner: puts, streams, multipart uploads, checksums, conditions,
// ranges, copies, paginators, presigned URLs, multi-delete.
const assert = require("node:assert");
const crypto = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const path = require("node:path");
const { pipeline } = require("node:stream/promises");
const s3 = require("@aws-sdk/client-s3");
const { Upload } = require("@aws-sdk/lib-storage");
const { getSignedUrl } = require("@aws-sdk/s3-request-presigner");

const Bucket = `js-${process.env.SCHEME}`;
const settings = { endpoint: process.env.ENDPOINT, region: process.env.AWS_REGION, forcePathStyle: true };
const client = new s3.S3Client(settings);
const send = (Command, input) => client.send(new s3[`${Command}Command`]({ Bucket, ...input }));

async function read(Key, more = {}) {
  const answer = await send("GetObject", { Key, ...more });
  return Buffer.from(await answer.Body.transformToByteArray());
}

async function expect(Key, bytes, more = {}) {
  // Not deepEqual: it would print both.
  assert(bytes.equals(await read(Key, more)), `${Key} came back different`);
}

async function refused(name, status, promise) {
  const error = await promise.then(
    () => assert.fail(`${name} was expected`),
    (error) => error,
  );
  assert.deepEqual([error.name, error.$metadata?.httpStatusCode], [name, status], error);
}

async function sizes() {
  for (const name of fs.readdirSync(process.env.FILES)) {
    const file = path.join(process.env.FILES, name);
    const bytes = fs.readFileSync(file);
    const put = await send("PutObject", { Key: `put/${name}`, Body: bytes });
    assert.equal(put.ETag, `"${crypto.createHash("md5").update(bytes).digest("hex")}"`);
    await expect(`put/${name}`, bytes);
    await send("PutObject", { Key: `body/${name}`, Body: fs.createReadStream(file), ContentLength: bytes.length });
    await expect(`body/${name}`, bytes);
    const progress = [];
    const params = { Bucket, Key: `upload/${name}`, Body: fs.createReadStream(file), Metadata: { size: name } };
    const upload = new Upload({ client, params, partSize: 5 << 20, queueSize: 3 });
    upload.on("httpUploadProgress", ({ loaded }) => progress.push(loaded));
    const done = await upload.done();
    assert.equal(Math.max(...progress), bytes.length);
    const parts = Math.ceil(bytes.length / (5 << 20));
    if (parts > 1) assert(done.ETag.endsWith(`-${parts}"`), `${done.ETag} of ${parts} parts`);
    const back = path.join(process.env.WORK, "back");
    const answer = await send("GetObject", { Key: `upload/${name}` });
    assert.deepEqual([answer.ContentLength, answer.Metadata], [bytes.length, { size: name }]);
    await pipeline(answer.Body, fs.createWriteStream(back));
    assert(bytes.equals(fs.readFileSync(back)), `upload/${name} came back different`);
  }
}

async function abortedUpload() {
  const params = { Bucket, Key: "aborted", Body: Buffer.alloc(30 << 20) };
  const upload = new Upload({ client, params, partSize: 5 << 20, queueSize: 1 });
  upload.on("httpUploadProgress", ({ loaded }) => loaded && upload.abort());
  await assert.rejects(upload.done(), { name: "AbortError" });
  await refused("NotFound", 404, send("HeadObject", { Key: "aborted" }));
  // The SDK aborts the upload behind the promise's back.
  for (let tries = 0; (await send("ListMultipartUploads")).Uploads; tries += 1) {
    assert(tries < 100, "the upload is still there");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function checksums() {
  const bytes = crypto.randomBytes(100_000);
  for (const ChecksumAlgorithm of ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]) {
    const field = `Checksum${ChecksumAlgorithm}`;
    const Key = `sum/${ChecksumAlgorithm}`;
    const put = await send("PutObject", { Key, Body: bytes, ChecksumAlgorithm });
    const head = await send("HeadObject", { Key, ChecksumMode: "ENABLED" });
    assert(put[field] && head[field] === put[field], ChecksumAlgorithm);
    await expect(Key, bytes, { ChecksumMode: "ENABLED" });
    const attributes = await send("GetObjectAttributes", { Key, ObjectAttributes: ["Checksum", "ObjectSize"] });
    assert.deepEqual([attributes.Checksum[field], attributes.ObjectSize], [put[field], bytes.length]);
  }
  const sha256 = crypto.createHash("sha256").update(bytes).digest("base64");
  assert.equal((await send("HeadObject", { Key: "sum/SHA256", ChecksumMode: "ENABLED" })).ChecksumSHA256, sha256);
  const other = crypto.createHash("sha256").update("other").digest("base64");
  await refused("BadDigest", 400, send("PutObject", { Key: "bad", Body: bytes, ChecksumSHA256: other }));
  await refused("NotFound", 404, send("HeadObject", { Key: "bad" }));

  // The older way of the SDK: no checksum unless asked for.
  const old = new s3.S3Client({
    ...settings,
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
  });
  await old.send(new s3.PutObjectCommand({ Bucket, Key: "sum/none", Body: bytes }));
  await expect("sum/none", bytes);
  await old.send(new s3.DeleteObjectsCommand({ Bucket, Delete: { Objects: [{ Key: "sum/none" }] } }));
  await refused("NotFound", 404, send("HeadObject", { Key: "sum/none" }));
}

async function conditions() {
  const put = (Body, more) => send("PutObject", { Key: "once", Body, ...more });
  const { ETag } = await put("1", { IfNoneMatch: "*" });
  await refused("PreconditionFailed", 412, put("2", { IfNoneMatch: "*" }));
  const second = await put("2", { IfMatch: ETag });
  await refused("PreconditionFailed", 412, put("3", { IfMatch: ETag }));
  await refused("Unknown", 304, send("GetObject", { Key: "once", IfNoneMatch: second.ETag }));
  await refused("PreconditionFailed", 412, send("GetObject", { Key: "once", IfMatch: ETag }));
  await refused("NoSuchKey", 404, send("GetObject", { Key: "never" }));
  await expect("once", Buffer.from("2"), { IfMatch: second.ETag });
}

async function rangesAndCopies() {
  const whole = fs.readFileSync(path.join(process.env.FILES, "65537"));
  await expect("put/65537", whole.subarray(10, 20), { Range: "bytes=10-19" });
  await expect("put/65537", whole.subarray(65530), { Range: "bytes=65530-" });
  await expect("put/65537", whole.subarray(-3), { Range: "bytes=-3" });
  await refused("InvalidRange", 416, send("GetObject", { Key: "put/65537", Range: "bytes=65537-" }));
  const more = { MetadataDirective: "REPLACE", Metadata: { new: "yes" }, ContentType: "text/x-test" };
  await send("CopyObject", { Key: "copied", CopySource: `${Bucket}/put/65537`, ...more });
  await expect("copied", whole);
  const head = await send("HeadObject", { Key: "copied" });
  assert.deepEqual([head.Metadata, head.ContentType], [{ new: "yes" }, "text/x-test"]);

  const big = fs.readFileSync(path.join(process.env.FILES, "5242881"));
  const { UploadId } = await send("CreateMultipartUpload", { Key: "part-copies" });
  const Parts = [];
  for (const [index, range] of ["0-5242879", "5242880-5242880"].entries()) {
    const input = { CopySource: `${Bucket}/put/5242881`, CopySourceRange: `bytes=${range}` };
    const PartNumber = index + 1;
    const copy = await send("UploadPartCopy", { Key: "part-copies", UploadId, PartNumber, ...input });
    const { ETag, ChecksumCRC32 } = copy.CopyPartResult;
    Parts.push({ PartNumber, ETag, ChecksumCRC32 });
  }
  const listed = await send("ListParts", { Key: "part-copies", UploadId });
  assert.deepEqual(listed.Parts.map(({ Size }) => Size), [5242880, 1]);
  await send("CompleteMultipartUpload", { Key: "part-copies", UploadId, MultipartUpload: { Parts } });
  await expect("part-copies", big);
}

async function listings() {
  const names = Array.from({ length: 23 }, (_, index) => `list/${index % 3}/n ${index}+é`).sort();
  await Promise.all(names.map((Key) => send("PutObject", { Key, Body: Key })));
  const found = [];
  let pages = 0;
  for await (const page of s3.paginateListObjectsV2({ client, pageSize: 5 }, { Bucket, Prefix: "list/" })) {
    pages += 1;
    found.push(...page.Contents.map(({ Key }) => Key));
  }
  assert.deepEqual([pages, found], [5, names]);
  const prefixes = [];
  const input = { Bucket, Prefix: "list/", Delimiter: "/" };
  for await (const page of s3.paginateListObjectsV2({ client, pageSize: 2 }, input)) {
    prefixes.push(...(page.CommonPrefixes ?? []).map(({ Prefix }) => Prefix));
  }
  assert.deepEqual(prefixes, ["list/0/", "list/1/", "list/2/"]);
  for (const Key of names) await expect(Key, Buffer.from(Key));
  const { Buckets } = await client.send(new s3.ListBucketsCommand({}));
  assert(Buckets.some(({ Name }) => Name === Bucket));
}

function request(url, method, body, headers = {}) {
  return new Promise((resolve, reject) => {
    const sent = (url.startsWith("https") ? https : http).request(url, { method, headers }, (answer) => {
      const chunks = [];
      answer.on("data", (chunk) => chunks.push(chunk));
      answer.on("end", () => resolve([answer.statusCode, Buffer.concat(chunks)]));
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

async function presigned() {
  const bytes = crypto.randomBytes(70_000);
  const put = new s3.PutObjectCommand({ Bucket, Key: "by url é", ContentType: "text/x-url", Metadata: { by: "url" } });
  const headers = { "content-type": "text/x-url" };
  const url = await getSignedUrl(client, put, { expiresIn: 60 });
  const [status, answer] = await request(url, "PUT", bytes, headers);
  assert.equal(status, 200, answer.toString());
  const head = await send("HeadObject", { Key: "by url é" });
  assert.deepEqual([head.ContentType, head.Metadata], ["text/x-url", { by: "url" }]);
  const get = new s3.GetObjectCommand({ Bucket, Key: "by url é", ResponseContentType: "text/plain" });
  const getUrl = await getSignedUrl(client, get, { expiresIn: 60 });
  const [code, back] = await request(getUrl, "GET");
  assert.equal(code, 200, back.toString());
  assert(bytes.equals(back), "what the URL gives is different");
  const [ranged, piece] = await request(getUrl, "GET", undefined, { range: "bytes=5-8" });
  assert.deepEqual([ranged, piece], [206, bytes.subarray(5, 9)]);
  assert.equal((await request(getUrl.replace("by%20url", "other"), "GET"))[0], 403);
  assert.equal((await request(getUrl, "PUT", "x"))[0], 403);
}

async function remove() {
  for await (const page of s3.paginateListObjectsV2({ client }, { Bucket })) {
    const Objects = (page.Contents ?? []).map(({ Key }) => ({ Key }));
    const answer = await send("DeleteObjects", { Delete: { Objects } });
    assert.equal(answer.Errors, undefined);
    assert.equal(answer.Deleted.length, Objects.length);
  }
  assert.equal((await send("ListObjectsV2")).KeyCount, 0);
  await send("DeleteBucket");
  await refused("NotFound", 404, send("HeadBucket"));
}

async function main() {
  await send("CreateBucket");
  await s3.waitUntilBucketExists({ client, maxWaitTime: 10 }, { Bucket });
  const steps = [sizes, abortedUpload, checksums, conditions, rangesAndCopies, listings, presigned, remove];
  for (const step of steps) {
    console.log(step.name);
    await step();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
