# What the clients in Ruby send: an exception with two causes.
def exception_with_causes
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
  error
end
