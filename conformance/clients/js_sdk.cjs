// @aws-sdk/client-s3 and lib-storage: puts, streamed multipart uploads, ranged reads, multi-delete.
const assert = require("node:assert");
const fs = require("node:fs");
const path = require("node:path");
const s3 = require("@aws-sdk/client-s3");
const { Upload } = require("@aws-sdk/lib-storage");

const Bucket = `js-${process.env.SCHEME}`;
const client = new s3.S3Client({ endpoint: process.env.ENDPOINT, region: process.env.AWS_REGION, forcePathStyle: true });

async function read(Key, more = {}) {
  const answer = await client.send(new s3.GetObjectCommand({ Bucket, Key, ...more }));
  return Buffer.from(await answer.Body.transformToByteArray());
}

async function main() {
  await client.send(new s3.CreateBucketCommand({ Bucket }));
  for (const name of fs.readdirSync(process.env.FILES)) {
    const file = path.join(process.env.FILES, name);
    const bytes = fs.readFileSync(file);
    await client.send(new s3.PutObjectCommand({ Bucket, Key: `put/${name}`, Body: bytes }));
    assert(bytes.equals(await read(`put/${name}`)), `put ${name}`);
    const params = { Bucket, Key: `stream/${name}`, Body: fs.createReadStream(file) };
    await new Upload({ client, params, partSize: 5 << 20 }).done();
    assert(bytes.equals(await read(`stream/${name}`)), `stream ${name}`);
  }
  const whole = fs.readFileSync(path.join(process.env.FILES, "65537"));
  assert(whole.subarray(10, 20).equals(await read("put/65537", { Range: "bytes=10-19" })));
  for (;;) {
    const page = await client.send(new s3.ListObjectsV2Command({ Bucket }));
    if (!page.Contents) break;
    const Objects = page.Contents.map(({ Key }) => ({ Key }));
    await client.send(new s3.DeleteObjectsCommand({ Bucket, Delete: { Objects } }));
  }
  await client.send(new s3.DeleteBucketCommand({ Bucket }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
