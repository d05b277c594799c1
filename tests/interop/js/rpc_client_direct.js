// The same client with RabbitMQ's direct reply-to: node rpc_client_direct.js URL QUEUE BODY...
// There is no callback queue: the pseudo-queue below is consumed, and the broker writes the real address into the request.
'use strict';

const { randomUUID } = require('node:crypto');
const amqp = require('amqplib');

const REPLY_TO = 'amq.rabbitmq.reply-to';

async function main([url, queue, ...bodies]) {
  const connection = await amqp.connect(url);
  const channel = await connection.createChannel();

  const waiting = new Map();
  const onResponse = (message) => {
    const { correlationId } = message.properties;
    waiting.get(correlationId)?.(message.content.toString());
    waiting.delete(correlationId);
  };
  await channel.consume(REPLY_TO, onResponse, { noAck: true }); // on the channel that publishes, before it does

  const call = (body) =>
    new Promise((resolve) => {
      const correlationId = randomUUID();
      waiting.set(correlationId, resolve);
      channel.sendToQueue(queue, Buffer.from(body), { correlationId, replyTo: REPLY_TO });
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
