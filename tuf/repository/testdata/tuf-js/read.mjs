// Refreshes from a pinned root and downloads each named target. One line of JSON per target goes to stdout:
// its path, and its length and bytes, or null when verified metadata says it does not exist.
// usage: read.mjs PINNED-ROOT REPOSITORY-URL WORK-DIRECTORY TARGET...
import { copyFileSync, mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [root, url, work, ...targets] = process.argv.slice(2);
const { Updater } = createRequire(join(work, 'package.json'))('tuf-js');

const metadataDir = join(work, 'metadata');
const targetDir = join(work, 'targets');
mkdirSync(metadataDir, { recursive: true });
mkdirSync(targetDir, { recursive: true });
copyFileSync(root, join(metadataDir, 'root.json'));

const updater = new Updater({ metadataDir, targetDir, metadataBaseUrl: `${url}/metadata`, targetBaseUrl: `${url}/targets` });
await updater.refresh();
for (const [i, path] of targets.entries()) {
  const info = await updater.getTargetInfo(path);
  if (!info) {
    console.log(JSON.stringify({ path, found: false }));
    continue;
  }
  const file = await updater.downloadTarget(info, join(targetDir, String(i)));
  console.log(JSON.stringify({ path, found: true, length: info.length, base64: readFileSync(file).toString('base64') }));
}
