// The client of RabbitMQ's tutorial six in JavaScript: node rpc_client.js URL QUEUE BODY...
// Written after the tutorial's text, on amqplib's promise API. It knows nothing of Warren.
'use strict';

const { randomUUID } = require('node:crypto');
const amqp = require('amqplib');

async function main([url, queue, ...bodies]) {
  const connection = await amqp.connect(url);
  const channel = await connection.createChannel();
  const callback = await channel.assertQueue('', { exclusive: true });

  const waiting = new Map();
  const onResponse = (message) => {
    const { correlationId } = message.properties;
    waiting.get(correlationId)?.(message.content.toString()); // other ids are left alone
    waiting.delete(correlationId);
  };
  await channel.consume(callback.queue, onResponse, { noAck: true });

  const call = (body) =>
    new Promise((resolve) => {
      const correlationId = randomUUID();
      waiting.set(correlationId, resolve);
      channel.sendToQueue(queue, Buffer.from(body), { correlationId, replyTo: callback.queue });
    });

  for (const body of bodies) {
    console.log(' [x] Requesting fib(%s)', body);
    console.log(' [.] Got %s', await call(body));
  }
  await connection.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
