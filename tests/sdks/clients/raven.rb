# Does what its input says, a command on each line, with the SDK that preceded sentry-ruby. It posts to /store/.
require "sentry-raven"

$stdout.sync = true

Raven.configure do |config|
  config.dsn = ENV["DSN"]
  config.release = "shop@1.2.3"
  config.current_environment = "testing"
  # Its default is zlib in Base64, which the service does not take.
  config.encoding = "json"
  config.logger = Logger.new($stderr)
end
Raven.user_context(id: 42, email: "dev@example.com")
Raven.tags_context(region: "us-east")

def exception
  Raven.breadcrumbs.record do |crumb|
    crumb.category = "cart"
    crumb.message = "added a book"
    crumb.level = "info"
    crumb.data = { count: 2 }
  end
  begin
    begin
      begin
        raise KeyError, "inner"
      rescue KeyError
        raise ArgumentError, "middle"
      end
    rescue ArgumentError
      raise "outer"
    end
  rescue RuntimeError => error
    Raven.capture_exception(error)
  end
end

def twice
  event_id = SecureRandom.uuid.delete("-")
  2.times { Raven.capture_message("twice", id: event_id) }
end

$stdin.each_line(chomp: true) do |line|
  command, text = line.split(" ", 2)
  command == "message" ? Raven.capture_message(text, level: "warning") : send(command)
  puts "done"
end
