// The life of an amqplib client, against the embedded broker: node broker_client.js URL SCENARIO
// Each scenario throws if something is not as amqplib's documentation has it.
'use strict';

const assert = require('node:assert');
const { once } = require('node:events');
const amqp = require('amqplib');

const REPLY_TO = 'amq.rabbitmq.reply-to';

// Messages of a consumer, one after the other.
function inbox() {
  const got = [];
  const waiting = [];
  return {
    put: (message) => (waiting.length ? waiting.shift()(message) : got.push(message)),
    next: () => (got.length ? Promise.resolve(got.shift()) : new Promise((resolve) => waiting.push(resolve))),
  };
}

const scenarios = {
  async publishAndConsume(connection) {
    const channel = await connection.createChannel();
    await channel.assertExchange('x', 'topic', { alternateExchange: 'amq.fanout' });
    const { queue } = await channel.assertQueue('', { exclusive: true });
    await channel.bindQueue(queue, 'x', 'a.*');
    const box = inbox();
    await channel.prefetch(10);
    const { consumerTag } = await channel.consume(queue, box.put);
    const headers = { text: 'ünïcödé 🐰', number: 7, nested: { list: [1, null, true] } };
    channel.publish('x', 'a.b', Buffer.from('hello'), { headers, messageId: 'm', timestamp: 1577934245 });
    const message = await box.next();
    assert.strictEqual(message.content.toString(), 'hello');
    assert.deepStrictEqual(message.properties.headers, headers);
    assert.strictEqual(message.properties.messageId, 'm');
    channel.nack(message);
    const again = await box.next();
    assert.strictEqual(again.fields.redelivered, true);
    channel.reject(again, false);
    await channel.cancel(consumerTag);
    assert.strictEqual(await channel.get(queue), false);
    channel.sendToQueue(queue, Buffer.alloc(1 << 20, 'x'));
    const large = await channel.get(queue);
    assert.strictEqual(large.content.length, 1 << 20);
    channel.ackAll();
    await channel.unbindQueue(queue, 'x', 'a.*');
    assert.strictEqual((await channel.purgeQueue(queue)).messageCount, 0);
    assert.strictEqual((await channel.deleteQueue(queue)).messageCount, 0);
    await channel.deleteExchange('x');
    await channel.close();
  },

  async confirms(connection) {
    const channel = await connection.createConfirmChannel();
    await channel.assertQueue('q');
    const sent = [];
    for (let n = 0; n < 1000; n++) {
      sent.push(new Promise((resolve, reject) =>
        channel.sendToQueue('q', Buffer.from(String(n)), {}, (error) => (error ? reject(error) : resolve()))));
    }
    await Promise.all(sent);
    await channel.waitForConfirms();
    assert.strictEqual((await channel.checkQueue('q')).messageCount, 1000);
    await channel.assertQueue('full', { maxLength: 0, arguments: { 'x-overflow': 'reject-publish' } });
    const refused = await new Promise((resolve) => channel.sendToQueue('full', Buffer.from('no'), {}, resolve));
    assert.ok(refused instanceof Error);
  },

  async returns(connection) {
    const channel = await connection.createChannel();
    const returned = once(channel, 'return');
    channel.publish('', 'nowhere', Buffer.from('lost'), { mandatory: true });
    const [message] = await returned;
    assert.strictEqual(message.content.toString(), 'lost');
    assert.strictEqual(message.fields.replyCode, 312);
  },

  async directReplies(connection) {
    const [client, server] = [await connection.createChannel(), await connection.createChannel()];
    await server.assertQueue('requests');
    await server.consume('requests', (request) => {
      const { replyTo, correlationId } = request.properties;
      server.sendToQueue(replyTo, Buffer.from(request.content.toString().toUpperCase()), { correlationId });
      server.ack(request);
    });
    const box = inbox();
    await client.consume(REPLY_TO, box.put, { noAck: true });
    for (const correlationId of ['1', '2', '3']) {
      client.sendToQueue('requests', Buffer.from('hello'), { replyTo: REPLY_TO, correlationId });
      const reply = await box.next();
      assert.strictEqual(reply.content.toString(), 'HELLO');
      assert.strictEqual(reply.properties.correlationId, correlationId);
    }
  },

  async deadLetters(connection) {
    const channel = await connection.createChannel();
    await channel.assertQueue('dead');
    await channel.assertQueue('q', { messageTtl: 20, deadLetterExchange: '', deadLetterRoutingKey: 'dead' });
    const box = inbox();
    await channel.consume('dead', box.put, { noAck: true });
    channel.sendToQueue('q', Buffer.from('hello'));
    const [death] = (await box.next()).properties.headers['x-death'];
    assert.strictEqual(death.reason, 'expired');
    assert.strictEqual(death.queue, 'q');
  },

  async deletedQueue(connection) {
    const channel = await connection.createChannel();
    await channel.assertQueue('q');
    const box = inbox();
    await channel.consume('q', box.put);
    await channel.deleteQueue('q');
    assert.strictEqual(await box.next(), null); // amqplib's word for a cancelled consumer
  },

  async errors(connection) {
    const channel = await connection.createChannel();
    const error = once(channel, 'error');
    await assert.rejects(channel.checkQueue('nowhere'), /404/);
    assert.strictEqual((await error)[0].code, 404);
    const other = await connection.createChannel();
    other.on('error', () => {});
    await other.assertQueue('q', { durable: true });
    await assert.rejects(other.assertQueue('q', { durable: false }), /406/);
  },

  async recover(connection) {
    const channel = await connection.createChannel();
    await channel.assertQueue('q');
    channel.sendToQueue('q', Buffer.from('again'));
    const box = inbox();
    await channel.consume('q', box.put);
    await box.next();
    await channel.recover();
    const message = await box.next();
    assert.strictEqual(message.fields.redelivered, true);
    channel.ackAll();
  },
};

async function main([url, name]) {
  const connection = await amqp.connect(url);
  await scenarios[name](connection);
  await connection.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
