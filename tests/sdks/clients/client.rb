# Does what its input says, a command on each line, with sentry-ruby.
require "sentry-ruby"

$stdout.sync = true

Sentry.init do |config|
  config.dsn = ENV["DSN"]
  config.release = "shop@1.2.3"
  config.environment = "testing"
  config.traces_sample_rate = 1.0
  config.background_worker_threads = 0
  config.logger = Logger.new($stderr)
end
Sentry.set_user(id: 42, email: "dev@example.com")
Sentry.set_tags(region: "us-east")

def exception
  Sentry.add_breadcrumb(
    Sentry::Breadcrumb.new(category: "cart", message: "added a book", level: "info", data: { count: 2 })
  )
  begin
    begin
      raise KeyError, "inner"
    rescue KeyError
      raise "outer"
    end
  rescue RuntimeError => error
    Sentry.capture_exception(error)
  end
end

def transaction
  transaction = Sentry.start_transaction(name: "checkout", op: "task")
  transaction.with_child_span(op: "http.client", description: "GET /price") do |span|
    span.with_child_span(op: "db", description: "SELECT 1") {}
  end
  transaction.set_status("ok")
  transaction.finish
end

def twice
  event = Sentry.get_current_client.event_from_message("twice")
  2.times { Sentry.send_event(event) }
end

$stdin.each_line(chomp: true) do |line|
  command, text = line.split(" ", 2)
  begin
    command == "message" ? Sentry.capture_message(text, level: :warning) : send(command)
  rescue Sentry::ExternalError => error
    warn error.message
  end
  puts "done"
end
