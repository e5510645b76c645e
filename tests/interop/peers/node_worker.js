// A worker by the package gearman of the functions that the interoperation tests use: node_worker.js HOST PORT
"use strict";
const fs = require("fs");
const gearman = require("gearman");

const [host, port] = process.argv.slice(2);
const worker = gearman(host, Number(port));
const functions = {
  upper: (job) => worker.sendWorkComplete(job.handle, job.payload.toString().toUpperCase()),
  fail: (job) => worker.sendWorkFail(job.handle),
  raise: (job) => worker.sendWorkException(job.handle, "told to"),
  talk: (job) => {
    worker.sendWorkData(job.handle, "part of " + job.payload);
    worker.sendWorkWarning(job.handle, "careful");
    worker.sendWorkStatus(job.handle, "1", "2");
    worker.sendWorkComplete(job.handle, "done");
  },
  until: async (job) => {
    while (!fs.existsSync(job.payload.toString())) await new Promise((done) => setTimeout(done, 20));
    worker.sendWorkComplete(job.handle, "done");
  },
};
worker.on("JOB_ASSIGN", async (job) => {
  await functions[job.func_name](job);
  worker.grabJob();
});
worker.on("NO_JOB", () => worker.preSleep());
worker.on("NOOP", () => worker.grabJob());
worker.on("close", () => process.exit(1));
worker.on("error", () => process.exit(1));
worker.connect(() => {
  Object.keys(functions).forEach((name) => worker.addFunction(name));
  worker.grabJob();
});
