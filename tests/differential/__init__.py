"""The embedded broker beside RabbitMQ: the same operations on both, compared by what a client sees."""
